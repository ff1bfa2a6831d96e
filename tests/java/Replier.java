import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * A consumer that replies to requests, as Apache's example does.
 *
 * <pre>
 * java -cp CLASSES:LIB/* Replier NAME_SERVERS TOPIC GROUP
 * </pre>
 *
 * Replies with "re: " and the body of the request, and with user property "asked" for its key. A body that begins with
 * "silent" gets no reply, with "twice" two, with "slow" one after two seconds, with "long" one of 20,000 bytes.
 * Prints "ready" when it consumes, and a line for each reply: "replied CORRELATION_ID STATUS" or "failed CORRELATION_ID
 * REASON". Ends with standard input, so that it cannot outlive the process that started it. Compiles with the jars of
 * 4.7.0 to 5.5.0.
 */
public final class Replier {
    private final DefaultMQProducer producer;
    private final PrintStream out;

    private Replier(DefaultMQProducer producer, PrintStream out) {
        this.producer = producer;
        this.out = out;
    }

    public static void main(String[] arguments) throws Exception {
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        DefaultMQProducer producer = new DefaultMQProducer(arguments[2] + "_replies");
        producer.setNamesrvAddr(arguments[0]);
        producer.setSendMsgTimeout(15_000);
        producer.start();
        Replier replier = new Replier(producer, out);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(arguments[2]);
        consumer.setNamesrvAddr(arguments[0]);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(arguments[1], "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                replier.reply(message);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        out.println("ready");
        while (System.in.read() >= 0) {
            // Nothing is asked of it but to end.
        }
        Runtime.getRuntime().halt(0);
    }

    private void reply(MessageExt request) {
        String id = request.getProperty("CORRELATION_ID");
        try {
            String body = new String(request.getBody(), StandardCharsets.UTF_8);
            if (body.startsWith("silent")) {
                return;
            }
            if (body.startsWith("slow")) {
                Thread.sleep(2_000);
            }
            String answer = body.startsWith("long") ? "x".repeat(20_000) : "re: " + body;
            for (int copies = body.startsWith("twice") ? 2 : 1; copies > 0; copies--) {
                Message reply = MessageUtil.createReplyMessage(request, answer.getBytes(StandardCharsets.UTF_8));
                reply.putUserProperty("asked", String.valueOf(request.getKeys()));
                SendResult result = producer.send(reply);
                out.println("replied " + id + " " + result.getSendStatus());
            }
        } catch (Exception error) {
            out.println("failed " + id + " " + error);
            error.printStackTrace();
        }
    }
}
