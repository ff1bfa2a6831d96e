import java.lang.reflect.Method;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.message.Message;

/**
 * SendLater NAME_SERVERS TOPIC GROUP
 *
 * Sends with Apache's producer what is delivered later or is compressed, one message of each kind, whose body and key name
 * the kind: "level" waits for delay level 1, "compressed" has a long body; and with clients that can, "delay" and "at" are
 * due in a minute, "recalled" too and is taken back where the broker gave a handle, and "priority" has priority 2. Prints a
 * line for each: kind, message id, offset message id, broker, queue, queue offset.
 * Compiles with the clients 4.7.0 to 5.5.0.
 */
public class SendLater {
    private static String topic;
    private static DefaultMQProducer producer;

    public static void main(String[] args) throws Exception {
        topic = args[1];
        producer = new DefaultMQProducer(args[2]);
        producer.setNamesrvAddr(args[0]);
        producer.setSendMsgTimeout(20_000);
        producer.start();
        try {
            Message level = message("level", "level");
            level.setDelayTimeLevel(1);
            send("level", level);
            StringBuilder lines = new StringBuilder();
            for (int i = 0; lines.length() < 10_000; i++) {
                lines.append("line ").append(i).append(" of a compressible body\n");
            }
            send("compressed", message("compressed", lines.toString()));
            if (has(Message.class, "setDelayTimeMs")) {
                sendTimed();
            }
        } finally {
            producer.shutdown();
        }
        System.exit(0);
    }

    /** What 4.7.0's client does not have is called by name. */
    private static void sendTimed() throws Exception {
        send("delay", with("setDelayTimeMs", long.class, 60_000L, "delay"));
        send("at", with("setDeliverTimeMs", long.class, System.currentTimeMillis() + 60_000, "at"));
        send("priority", with("setPriority", int.class, 2, "priority"));
        SendResult result = send("recalled", with("setDelayTimeMs", long.class, 60_000L, "recalled"));
        Object handle = SendResult.class.getMethod("getRecallHandle").invoke(result);
        if (handle != null) {
            Method recall = DefaultMQProducer.class.getMethod("recallMessage", String.class, String.class);
            Object recalled = recall.invoke(producer, topic, handle);
            if (!result.getMsgId().equals(recalled)) {
                throw new IllegalStateException("recalled " + recalled + " in place of " + result.getMsgId());
            }
        }
    }

    private static boolean has(Class<?> type, String method) {
        for (Method known : type.getMethods()) {
            if (known.getName().equals(method)) {
                return true;
            }
        }
        return false;
    }

    private static Message with(String setter, Class<?> type, Object value, String kind) throws Exception {
        Message message = message(kind, kind);
        Message.class.getMethod(setter, type).invoke(message, value);
        return message;
    }

    private static Message message(String kind, String body) throws Exception {
        return new Message(topic, "Tag-" + kind, kind, body.getBytes("UTF-8"));
    }

    private static SendResult send(String kind, Message message) throws Exception {
        SendResult result = producer.send(message);
        System.out.println(String.join(" ", "sent", kind, result.getMsgId(), result.getOffsetMsgId(),
            result.getMessageQueue().getBrokerName(), String.valueOf(result.getMessageQueue().getQueueId()),
            String.valueOf(result.getQueueOffset())));
        return result;
    }
}
