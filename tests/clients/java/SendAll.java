import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/**
 * SendAll NAME_SERVERS TOPIC GROUP COUNT BATCH
 *
 * Sends COUNT messages in each of the ways sync, async and one-way, and BATCH messages in one batch, with Apache's
 * producer. Prints a line for each answer: way, number, message id, offset message id, broker, queue, queue offset.
 * Compiles with the clients 4.7.0 to 5.5.0.
 */
public class SendAll {
    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int count = Integer.parseInt(args[3]);
        DefaultMQProducer producer = new DefaultMQProducer(args[2]);
        producer.setNamesrvAddr(args[0]);
        producer.setHeartbeatBrokerInterval(500);
        producer.setSendMsgTimeout(20_000);
        producer.start();
        try {
            for (int i = 0; i < count; i++) {
                report("sync", i, producer.send(message(topic, "sync", i)));
            }
            sendAsync(producer, topic, count);
            for (int i = 0; i < count; i++) {
                producer.sendOneway(message(topic, "oneway", i));
            }
            List<Message> batch = new ArrayList<>();
            for (int i = 0; i < Integer.parseInt(args[4]); i++) {
                batch.add(message(topic, "batch", i));
            }
            report("batch", 0, producer.send(batch));
            // The first heartbeat is sent a second after the start.
            Thread.sleep(2_000);
        } finally {
            producer.shutdown();
        }
        System.exit(0);
    }

    private static void sendAsync(DefaultMQProducer producer, String topic, int count) throws Exception {
        CountDownLatch answers = new CountDownLatch(count);
        ConcurrentLinkedQueue<Throwable> failures = new ConcurrentLinkedQueue<>();
        for (int i = 0; i < count; i++) {
            int number = i;
            producer.send(message(topic, "async", i), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    report("async", number, result);
                    answers.countDown();
                }

                @Override
                public void onException(Throwable failure) {
                    failures.add(failure);
                    answers.countDown();
                }
            });
        }
        if (!answers.await(30, TimeUnit.SECONDS)) {
            throw new IllegalStateException(answers.getCount() + " answers are missing");
        }
        for (Throwable failure : failures) {
            throw new IllegalStateException(failures.size() + " sends failed", failure);
        }
    }

    private static Message message(String topic, String way, int number) throws Exception {
        byte[] body = ("body of " + way + " " + number + " \u4e2d").getBytes("UTF-8");
        Message message = new Message(topic, "Tag-" + way, "key-" + way + "-" + number + " all", body);
        message.setFlag(number);
        message.putUserProperty("way", way);
        return message;
    }

    private static synchronized void report(String way, int number, SendResult result) {
        System.out.println(String.join(" ", way, String.valueOf(number), result.getMsgId(), result.getOffsetMsgId(),
            result.getMessageQueue().getBrokerName(), String.valueOf(result.getMessageQueue().getQueueId()),
            String.valueOf(result.getQueueOffset())));
    }
}
