import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * SendTransactions NAME_SERVERS TOPIC GROUP COUNT
 *
 * Sends COUNT messages each in transactions that end with a commit, with a rollback, and that are unknown until the
 * broker has asked twice, with Apache's producer: of these every other is committed then. Prints a line for each answer:
 * what the local part said, number, message id, offset message id, broker, queue, queue offset; and a line for each
 * question: "asked", number, message id, how often. Compiles with the clients 4.7.0 to 5.5.0.
 */
public class SendTransactions {
    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(args[3]);
        CountDownLatch answered = new CountDownLatch(count);
        TransactionMQProducer producer = new TransactionMQProducer(args[2]);
        producer.setNamesrvAddr(args[0]);
        producer.setHeartbeatBrokerInterval(500);
        producer.setSendMsgTimeout(20_000);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object way) {
                return LocalTransactionState.valueOf((String) way);
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                int number = message.getFlag();
                int times = Integer.parseInt(message.getProperty("TRANSACTION_CHECK_TIMES"));
                report("asked", String.valueOf(number), message.getMsgId(), String.valueOf(times));
                if (times < 2) {
                    return LocalTransactionState.UNKNOW;
                }
                answered.countDown();
                return number % 2 == 0 ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
            }
        });
        producer.start();
        try {
            for (String way : new String[] {"COMMIT_MESSAGE", "ROLLBACK_MESSAGE", "UNKNOW"}) {
                for (int i = 0; i < count; i++) {
                    byte[] body = ("body of " + way + " " + i + " \u4e2d").getBytes("UTF-8");
                    Message message = new Message(args[1], "Tag-" + way, "key-" + i + " all", body);
                    message.setFlag(i);
                    message.putUserProperty("way", way);
                    TransactionSendResult result = producer.sendMessageInTransaction(message, way);
                    report(result.getLocalTransactionState().toString(), String.valueOf(i), result.getMsgId(),
                        result.getOffsetMsgId(), result.getMessageQueue().getBrokerName(),
                        String.valueOf(result.getMessageQueue().getQueueId()), String.valueOf(result.getQueueOffset()));
                }
            }
            if (!answered.await(60, TimeUnit.SECONDS)) {
                throw new IllegalStateException(answered.getCount() + " were not asked about");
            }
            // What the last of them say is sent behind their backs.
            Thread.sleep(1_000);
        } finally {
            producer.shutdown();
        }
        System.exit(0);
    }

    private static synchronized void report(String... words) {
        System.out.println(String.join(" ", words));
    }
}
