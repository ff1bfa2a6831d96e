// send_all NAME_SERVER TOPIC GROUP COUNT BATCH
//
// Sends COUNT messages in each of the ways sync, async and one-way, and BATCH messages in one batch, with Apache's
// producer for Go. Prints a line for each answer: way, number, message id, offset message id, broker, queue, queue
// offset.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

var output sync.Mutex

func main() {
	nameServers, topic, group := strings.Split(os.Args[1], ";"), os.Args[2], os.Args[3]
	count, batch := number(os.Args[4]), number(os.Args[5])
	rlog.SetLogLevel("error")
	p, err := rocketmq.NewProducer(
		producer.WithNsResolver(primitive.NewPassthroughResolver(nameServers)),
		producer.WithGroupName(group),
		producer.WithSendMsgTimeout(20*time.Second),
	)
	check(err)
	check(p.Start())
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	for i := 0; i < count; i++ {
		result, err := p.SendSync(ctx, message(topic, "sync", i))
		check(err)
		report("sync", i, result)
	}

	var answers sync.WaitGroup
	for i := 0; i < count; i++ {
		answers.Add(1)
		check(p.SendAsync(ctx, func(_ context.Context, result *primitive.SendResult, err error) {
			defer answers.Done()
			check(err)
			report("async", i, result)
		}, message(topic, "async", i)))
	}
	answers.Wait()

	for i := 0; i < count; i++ {
		check(p.SendOneWay(ctx, message(topic, "oneway", i)))
	}

	var messages []*primitive.Message
	for i := 0; i < batch; i++ {
		messages = append(messages, message(topic, "batch", i))
	}
	result, err := p.SendSync(ctx, messages...)
	check(err)
	report("batch", 0, result)
	check(p.Shutdown())
}

func message(topic, way string, number int) *primitive.Message {
	m := primitive.NewMessage(topic, []byte(fmt.Sprintf("body of %s %d 中", way, number)))
	m.WithTag("Tag-" + way)
	m.WithKeys([]string{fmt.Sprintf("key-%s-%d", way, number), "all"})
	m.WithProperty("way", way)
	m.Flag = int32(number)
	return m
}

func report(way string, number int, result *primitive.SendResult) {
	if result.Status != primitive.SendOK {
		log.Fatalf("%s %d: status %d", way, number, result.Status)
	}
	output.Lock()
	defer output.Unlock()
	fmt.Println(way, number, result.MsgID, result.OffsetMsgID, result.MessageQueue.BrokerName,
		result.MessageQueue.QueueId, result.QueueOffset)
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
