import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.exception.RequestTimeoutException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.RequestCallback;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * RequestAll NAME_SERVERS TOPIC GROUP COUNT SILENT_TOPIC
 *
 * Sends COUNT requests in each of the ways sync, callback, queue and selector with Apache's producer, and one that nobody
 * replies to. Prints a line for each reply: way, number, body; and "silent timeout" for the last.
 * Compiles with the clients 4.7.0 to 5.5.0.
 */
public class RequestAll {
    private static final long TIMEOUT = 20_000;

    public static void main(String[] args) {
        try {
            run(args);
            System.exit(0);
        } catch (Throwable failure) {
            failure.printStackTrace();
            // Its threads would go on for ever.
            System.exit(1);
        }
    }

    private static void run(String[] args) throws Exception {
        String topic = args[1];
        int count = Integer.parseInt(args[3]);
        loadClasses(args[0], topic);
        DefaultMQProducer producer = new DefaultMQProducer(args[2]);
        producer.setNamesrvAddr(args[0]);
        producer.setInstanceName("requester");
        producer.setSendMsgTimeout(20_000);
        producer.start();
        for (int i = 0; i < count; i++) {
            report("sync", i, producer.request(message(topic, "sync", i), TIMEOUT));
        }
        CountDownLatch answers = new CountDownLatch(count);
        for (int i = 0; i < count; i++) {
            int number = i;
            producer.request(message(topic, "callback", i), new RequestCallback() {
                @Override
                public void onSuccess(Message reply) {
                    report("callback", number, reply);
                    answers.countDown();
                }

                @Override
                public void onException(Throwable failure) {
                    failure.printStackTrace();
                    answers.countDown();
                }
            }, TIMEOUT);
        }
        if (!answers.await(30, TimeUnit.SECONDS)) {
            throw new IllegalStateException(answers.getCount() + " replies are missing");
        }
        MessageQueue queue = producer.fetchPublishMessageQueues(topic).get(0);
        for (int i = 0; i < count; i++) {
            report("queue", i, producer.request(message(topic, "queue", i), queue, TIMEOUT));
            report("selector", i, producer.request(message(topic, "selector", i),
                (queues, message, key) -> queues.get((Integer) key % queues.size()), i, TIMEOUT));
        }
        try {
            producer.request(message(args[4], "silent", 0), 1_000);
        } catch (RequestTimeoutException expected) {
            System.out.println("silent timeout");
        }
        producer.shutdown();
    }

    /** On a busy machine that takes longer than the three seconds that the client gives a name server. */
    private static void loadClasses(String nameServers, String topic) throws Exception {
        DefaultMQProducer other = new DefaultMQProducer("class_loader");
        other.setNamesrvAddr(nameServers);
        other.setInstanceName("class_loader");
        other.start();
        for (int left = 9; ; left--) {
            try {
                other.fetchPublishMessageQueues(topic);
                break;
            } catch (Exception tooSlow) {
                if (left == 0) {
                    throw tooSlow;
                }
            }
        }
        other.shutdown();
    }

    private static Message message(String topic, String way, int number) throws Exception {
        return new Message(topic, "Tag-" + way, (way + " " + number).getBytes("UTF-8"));
    }

    private static synchronized void report(String way, int number, Message reply) {
        System.out.println(way + " " + number + " " + new String(reply.getBody()));
    }
}
