#!/bin/bash
# Go: goroutines, channels and timers.
set -e
cat >main.go <<'END'
package main

import (
	"fmt"
	"sync"
	"time"
)

func main() {
	numbers, sums := make(chan int), make(chan int, 8)
	var workers sync.WaitGroup
	for i := 0; i < 4; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for number := range numbers {
				sum := 0
				for i := 0; i < 3000000; i++ {
					sum = (sum*31 + number + i) % 1000003
				}
				sums <- sum
			}
		}()
	}
	go func() {
		tick := time.NewTicker(15 * time.Millisecond)
		for number := 0; number < 1200; number++ {
			<-tick.C
			numbers <- number
		}
		close(numbers)
		workers.Wait()
		close(sums)
	}()
	total := 0
	for sum := range sums {
		total += sum
	}
	fmt.Println(total)
}
END
GOCACHE=$PWD/cache GOPATH=$PWD/path GOFLAGS=-mod=mod GO111MODULE=off CGO_ENABLED=0 go build -o main main.go
"${0%/*}/begin.sh"
./main >result
