import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.zip.CRC32;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.impl.MQClientManager;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.selector.SelectMessageQueueByHash;
import org.apache.rocketmq.common.TopicConfig;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageClientExt;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/**
 * What a cluster holds, as Apache's own Java client sees it.
 *
 * <pre>
 * java -cp CLASSES:LIB/* ReadAll NAME_SERVERS            commands from standard input, one per line
 * java -cp CLASSES:LIB/* ReadAll NAME_SERVERS COMMAND    this one command
 *
 * read TOPIC[,TOPIC...] EXPECTED TIMEOUT_MS   pulls every queue from its min to its max offset, once the
 *                                             queues hold EXPECTED messages together and stay so for a
 *                                             moment, or the time is over
 * survey TOPIC EXPECTED STABLE_MS TIMEOUT_MS  the same with length and CRC-32 in place of body and properties;
 *                                             the queues must hold still for so long
 * unique TOPIC UNIQ_KEY                       the message(s) with this id of the client
 * offset TOPIC OFFSET_ID                      the message with this id of the broker
 * queues TOPIC                                the queues that the topic's route offers for reading
 * producers GROUP                             who is registered at each broker as producer of the group
 * create TOPIC QUEUES                         creates or changes the topic on every broker
 * delete TOPIC                                deletes it from every broker, then from every name server
 * hash QUEUES HEX                             what SelectMessageQueueByHash picks for the key (hex of UTF-8)
 * send TOPIC COUNT                            sends "Hello RocketMQ i" as Apache's producer does
 *
 * The queries of Apache's producer:
 * positions TOPIC                             every queue with its min and max offset and its earliest store time
 * search TOPIC BROKER QUEUE TIME_MS           the offset of that time
 * view TOPIC ID                               the message with an id of either kind
 * key TOPIC KEY MOST BEGIN_MS END_MS          the messages with the key
 * new_topic KEY_TOPIC TOPIC QUEUES            creates the topic on the masters of the key topic
 * </pre>
 *
 * Every answer is one JSON object per line; each command ends with {"end":COMMAND,"count":LINES} or
 * {"error":TEXT}. Ends with standard input, so that it cannot outlive the process that started it.
 * Compiles with the jars of 4.7.0 to 5.5.0; 4.7.0's read from every release of the servers.
 */
public final class ReadAll {
    private static final long STABLE_MS = 300;

    private final String nameServers;
    private final PrintStream out;
    private final String instance = "read-all-" + ProcessHandle.current().pid();
    private DefaultMQPullConsumer reader;
    private DefaultMQAdminExt admin;
    private DefaultMQProducer producer;
    private int lines;

    private ReadAll(String nameServers, PrintStream out) {
        this.nameServers = nameServers;
        this.out = out;
    }

    public static void main(String[] arguments) throws Exception {
        // Standard output is for answers alone: what the client's log library prints goes elsewhere.
        PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        System.setOut(System.err);
        ReadAll program = new ReadAll(arguments[0], out);
        boolean good = true;
        if (arguments.length > 1) {
            good = program.run(List.of(arguments).subList(1, arguments.length));
        } else {
            BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
            for (String line = input.readLine(); line != null; line = input.readLine()) {
                program.run(List.of(line.trim().split(" +")));
            }
        }
        // The client's threads are not waited for: nothing that it could still do matters here.
        Runtime.getRuntime().halt(good ? 0 : 1);
    }

    private boolean run(List<String> words) {
        lines = 0;
        try {
            switch (words.get(0)) {
                case "read": read(words.get(1), number(words, 2), STABLE_MS, number(words, 3), true); break;
                case "survey": read(words.get(1), number(words, 2), number(words, 3), number(words, 4), false); break;
                case "unique": unique(words.get(1), words.get(2)); break;
                case "offset": print(reader().viewMessage(words.get(1), words.get(2))); break;
                case "queues": queues(words.get(1)); break;
                case "producers": producers(words.get(1)); break;
                case "create": create(words.get(1), Integer.parseInt(words.get(2))); break;
                case "delete": delete(words.get(1)); break;
                case "hash": hash(Integer.parseInt(words.get(1)), text(words.size() > 2 ? words.get(2) : "")); break;
                case "send": send(words.get(1), Integer.parseInt(words.get(2))); break;
                case "positions": positions(words.get(1)); break;
                case "search": search(words.get(1), words.get(2), number(words, 3), number(words, 4)); break;
                case "view": print(producer().viewMessage(words.get(1), words.get(2))); break;
                case "key": key(words.get(1), words.get(2), number(words, 3), number(words, 4), number(words, 5)); break;
                case "new_topic": newTopic(words.get(1), words.get(2), Integer.parseInt(words.get(3))); break;
                default: throw new IllegalArgumentException("unknown command");
            }
            out.println(new Json().put("end", words.get(0)).put("count", lines));
            return true;
        } catch (Exception error) {
            out.println(new Json().put("error", String.join(" ", words) + ": " + error));
            error.printStackTrace();
            return false;
        }
    }

    // ---- reading -------------------------------------------------------------------------------------

    private DefaultMQPullConsumer reader() throws Exception {
        if (reader == null) {
            reader = new DefaultMQPullConsumer("read_all_" + ProcessHandle.current().pid());
            reader.setNamesrvAddr(nameServers);
            reader.setInstanceName(instance);
            reader.start();
        }
        return reader;
    }

    private void read(String topics, long expected, long stableMs, long timeoutMs, boolean whole) throws Exception {
        long deadline = System.currentTimeMillis() + timeoutMs;
        long seen = -1;
        long since = 0;
        Map<MessageQueue, Long> ends = new TreeMap<>();
        Exception trouble = null;
        while (true) {
            ends.clear();
            long total = 0;
            for (String topic : topics.split(",")) {
                try {
                    for (MessageQueue queue : reader().fetchSubscribeMessageQueues(topic)) {
                        long end = reader().maxOffset(queue);
                        ends.put(queue, end);
                        total += end - reader().minOffset(queue);
                    }
                } catch (Exception error) {
                    trouble = error; // A young topic has no route yet; with nothing expected it need not come.
                }
            }
            long now = System.currentTimeMillis();
            if (total != seen) {
                seen = total;
                since = now;
            }
            if (now >= deadline || (total >= expected && now - since >= stableMs)) {
                break;
            }
            Thread.sleep(50);
        }
        if (ends.isEmpty() && expected > 0) {
            throw new IllegalStateException("no queue of " + topics + " within " + timeoutMs + " ms", trouble);
        }
        for (Map.Entry<MessageQueue, Long> queue : ends.entrySet()) {
            pull(queue.getKey(), queue.getValue(), deadline + timeoutMs, whole);
        }
    }

    private void pull(MessageQueue queue, long end, long deadline, boolean whole) throws Exception {
        long offset = reader().minOffset(queue);
        while (offset < end) {
            PullResult result = reader().pull(queue, "*", offset, 32, 10_000);
            if (result.getPullStatus() == PullStatus.FOUND) {
                for (MessageExt message : result.getMsgFoundList()) {
                    if (whole) {
                        print(queue, message);
                    } else {
                        survey(queue, message);
                    }
                }
            } else if (System.currentTimeMillis() > deadline) {
                throw new IllegalStateException(queue + " at " + offset + " of " + end + ": " + result);
            }
            offset = result.getNextBeginOffset();
        }
    }

    private MQClientInstance client() throws Exception {
        return MQClientManager.getInstance().getOrCreateMQClientInstance(reader());
    }

    private void unique(String topic, String key) throws Exception {
        // Not viewMessage(topic, id): that takes the id for a broker's first and dials the address in it.
        print(client().getMQAdminImpl().queryMessageByUniqKey(topic, key));
    }

    private void print(MessageExt message) {
        if (message != null) {
            print(new MessageQueue(message.getTopic(), "", message.getQueueId()), message);
        }
    }

    private void print(MessageQueue queue, MessageExt message) {
        // A pulled or queried message shows its UNIQ_KEY as msgId; one read by offset id shows that id.
        String offsetId = message instanceof MessageClientExt
            ? ((MessageClientExt) message).getOffsetMsgId() : message.getMsgId();
        Map<String, String> properties = new TreeMap<>(message.getProperties());
        properties.remove("MIN_OFFSET"); // These two are notes of the pulling client.
        properties.remove("MAX_OFFSET");
        Json tree = new Json();
        properties.forEach(tree::put);
        line(new Json().put("topic", message.getTopic()).put("broker_name", queue.getBrokerName())
            .put("queue_id", message.getQueueId()).put("queue_offset", message.getQueueOffset())
            .put("message_id", properties.get("UNIQ_KEY")).put("offset_message_id", offsetId)
            .put("body", hex(message.getBody())).put("tags", message.getTags()).put("keys", message.getKeys())
            .put("flag", message.getFlag()).put("sys_flag", message.getSysFlag()).put("properties", tree)
            .put("born_host", message.getBornHostString())
            .put("born_timestamp_ms", message.getBornTimestamp())
            .put("store_timestamp_ms", message.getStoreTimestamp()));
    }

    private void survey(MessageQueue queue, MessageExt message) {
        CRC32 checksum = new CRC32();
        checksum.update(message.getBody());
        line(new Json().put("broker_name", queue.getBrokerName()).put("queue_id", message.getQueueId())
            .put("queue_offset", message.getQueueOffset()).put("message_id", message.getProperty("UNIQ_KEY"))
            .put("offset_message_id", ((MessageClientExt) message).getOffsetMsgId()).put("keys", message.getKeys())
            .put("length", message.getBody().length).put("crc32", checksum.getValue()));
    }

    // ---- the cluster ---------------------------------------------------------------------------------

    private DefaultMQAdminExt admin() throws Exception {
        if (admin == null) {
            admin = new DefaultMQAdminExt(10_000);
            admin.setNamesrvAddr(nameServers);
            admin.setInstanceName(instance + "-admin");
            admin.start();
        }
        return admin;
    }

    private void queues(String topic) throws Exception {
        for (MessageQueue queue : new TreeSet<>(reader().fetchSubscribeMessageQueues(topic))) {
            line(new Json().put("broker_name", queue.getBrokerName()).put("queue_id", queue.getQueueId()));
        }
    }

    private void producers(String group) throws Exception {
        // Not examineProducerConnectionInfo, which asks one broker picked by chance.
        for (var broker : admin().examineBrokerClusterInfo().getBrokerAddrTable().values()) {
            Json line = new Json().put("broker_name", broker.getBrokerName());
            TreeSet<String> ids = new TreeSet<>();
            try {
                var api = client().getMQClientAPIImpl();
                var found = api.getProducerConnectionList(broker.getBrokerAddrs().get(0L), group, 10_000);
                found.getConnectionSet().forEach(connection -> {
                    ids.add(connection.getClientId());
                    line.put("language", connection.getLanguage().name()).put("version", connection.getVersion());
                });
            } catch (MQBrokerException unknownGroup) {
                line.put("remark", unknownGroup.getErrorMessage());
            }
            line(line.put("client_ids", String.join(" ", ids)));
        }
    }

    private void create(String topic, int queues) throws Exception {
        for (var broker : admin().examineBrokerClusterInfo().getBrokerAddrTable().values()) {
            TopicConfig config = new TopicConfig(topic, queues, queues, 6);
            admin().createAndUpdateTopicConfig(broker.getBrokerAddrs().get(0L), config);
            line(new Json().put("broker_name", broker.getBrokerName()));
        }
    }

    private void delete(String topic) throws Exception {
        Set<String> brokers = new HashSet<>();
        for (var broker : admin().examineBrokerClusterInfo().getBrokerAddrTable().values()) {
            brokers.add(broker.getBrokerAddrs().get(0L));
        }
        admin().deleteTopicInBroker(brokers, topic);
        admin().deleteTopicInNameServer(new HashSet<>(admin().getNameServerAddressList()), topic);
    }

    // ---- what Apache's producer does -----------------------------------------------------------------

    private void hash(int count, String key) {
        List<MessageQueue> queues = new ArrayList<>();
        for (int id = 0; id < count; id++) {
            queues.add(new MessageQueue("any", "any", id));
        }
        line(new Json().put("index", new SelectMessageQueueByHash().select(queues, null, key).getQueueId()));
    }

    private void send(String topic, int count) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("read_all_send");
        producer.setNamesrvAddr(nameServers);
        producer.setInstanceName(instance + "-producer");
        producer.setSendMsgTimeout(10_000);
        producer.start();
        for (int i = 0; i < count; i++) {
            byte[] body = ("Hello RocketMQ " + i).getBytes(StandardCharsets.UTF_8);
            var result = producer.send(new Message(topic, "TagA", "key " + i, body));
            line(new Json().put("status", result.getSendStatus().name()).put("message_id", result.getMsgId())
                .put("offset_message_id", result.getOffsetMsgId())
                .put("broker_name", result.getMessageQueue().getBrokerName())
                .put("queue_id", result.getMessageQueue().getQueueId())
                .put("queue_offset", result.getQueueOffset()));
        }
        producer.shutdown();
    }

    // ---- what Apache's producer asks ------------------------------------------------------------------

    private DefaultMQProducer producer() throws Exception {
        if (producer == null) {
            producer = new DefaultMQProducer("read_all_queries");
            producer.setNamesrvAddr(nameServers);
            producer.setInstanceName(instance + "-queries");
            producer.start();
        }
        return producer;
    }

    private void positions(String topic) throws Exception {
        for (MessageQueue queue : producer().fetchPublishMessageQueues(topic)) {
            line(new Json().put("broker_name", queue.getBrokerName()).put("queue_id", queue.getQueueId())
                .put("min", producer().minOffset(queue)).put("max", producer().maxOffset(queue))
                .put("earliest", producer().earliestMsgStoreTime(queue)));
        }
    }

    private void search(String topic, String broker, long queue, long time) throws Exception {
        line(new Json().put("offset", producer().searchOffset(new MessageQueue(topic, broker, (int) queue), time)));
    }

    private void key(String topic, String key, long most, long begin, long end) throws Exception {
        for (MessageExt message : producer().queryMessage(topic, key, (int) most, begin, end).getMessageList()) {
            print(message);
        }
    }

    private void newTopic(String keyTopic, String topic, int queues) throws Exception {
        // Not the method of DefaultMQProducer, whose parameters 5.x has changed.
        producer().getDefaultMQProducerImpl().createTopic(keyTopic, topic, queues);
    }

    // ---- text ----------------------------------------------------------------------------------------

    private void line(Json json) {
        lines++;
        out.println(json);
    }

    private static long number(List<String> words, int index) {
        return Long.parseLong(words.get(index));
    }

    private static String hex(byte[] bytes) {
        StringBuilder text = new StringBuilder();
        for (byte value : bytes == null ? new byte[0] : bytes) {
            text.append(Character.forDigit(value >> 4 & 15, 16)).append(Character.forDigit(value & 15, 16));
        }
        return text.toString();
    }

    private static String text(String hex) {
        byte[] bytes = new byte[hex.length() / 2];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
        }
        return new String(bytes, StandardCharsets.UTF_8);
    }

    /** One JSON object; a value that is null is left out. */
    private static final class Json {
        private final StringBuilder text = new StringBuilder();

        Json put(String name, Object value) {
            if (value != null) {
                text.append(text.length() == 0 ? "" : ",");
                quote(name);
                text.append(':');
                if (value instanceof String) {
                    quote((String) value);
                } else {
                    text.append(value);
                }
            }
            return this;
        }

        private void quote(String value) {
            text.append('"');
            for (char c : value.toCharArray()) {
                if (c < ' ' || c > '~' || c == '"' || c == '\\') {
                    text.append(String.format("\\u%04x", (int) c));
                } else {
                    text.append(c);
                }
            }
            text.append('"');
        }

        @Override
        public String toString() {
            return "{" + text + "}";
        }
    }
}
