#!/bin/bash
# OpenJDK: threads that share a queue, with a heap that is collected.
set -e
cat >Main.java <<'END'
import java.util.concurrent.*;
import java.util.stream.*;

public class Main {
    static long work(int number) {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 60000; i++)
            text.append((i * 31 + number) % 10);
        return text.chars().asLongStream().sum();
    }

    public static void main(String[] arguments) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        CompletionService<Long> done = new ExecutorCompletionService<>(pool);
        int tasks = 120000;
        IntStream.range(0, tasks).forEach(number -> done.submit(() -> work(number)));
        long sum = 0;
        for (int i = 0; i < tasks; i++)
            sum += done.take().get();
        pool.shutdown();
        System.out.println(sum);
    }
}
END
javac Main.java
"${0%/*}/begin.sh"
java -Xmx256m Main >result
