#!/bin/bash
# Node.js: timers, files and a worker thread.
set -e
"${0%/*}/begin.sh"
node - >result <<'END'
const { Worker } = require("node:worker_threads");
const { promises: files } = require("node:fs");
const { setTimeout: pause } = require("node:timers/promises");

const source = `
  const { parentPort } = require("node:worker_threads");
  parentPort.on("message", (n) => {
    let sum = 0;
    for (let i = 1; i < 3e6; i++) sum = (sum + n * i) % 1000003;
    parentPort.postMessage(sum);
  });`;

(async () => {
  const worker = new Worker(source, { eval: true });
  let total = 0;
  for (let n = 1; n <= 250; n++) {
    const answer = new Promise((resolve) => worker.once("message", resolve));
    worker.postMessage(n);
    total += await answer;
    await files.appendFile("lines", `${total}\n`);
    await pause(50);
  }
  const lines = (await files.readFile("lines", "utf8")).trim().split("\n");
  console.log(lines.length, lines.at(-1));
  await worker.terminate();
})();
END
