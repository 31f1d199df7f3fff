// Embed the texts of a job with llama.cpp's own `llama-embedding`, by the command that model cards print.
//
// node read_llama_embedding.mjs JOB_DIRECTORY PROGRAM OUTPUT
//
// The job and the output are those of read.py; model.gguf lies in the job's directory, and `program` names the command.
// PROGRAM "llama-embedding/rope" sets the base of RoPE for each text, and the context to the usable length.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";

const [jobDirectory, program, output] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(path.join(jobDirectory, "job.json"), "utf8"));

function embed(texts, ...options) {
  const size = String(job.longest);
  const command = ["-m", path.join(jobDirectory, "model.gguf"), "--pooling", "mean", "-c", size, "-b", size, "-ub", size];
  // one text a line
  const said = execFileSync(job.program, [...command, ...options, "--embd-output-format", "array", "-p", texts.join("\n")], {
    encoding: "utf8",
    maxBuffer: 2 ** 26,
  });
  return JSON.parse(said);
}

const rope = (number) => (program.endsWith("/rope") ? ["--rope-freq-base", String(job.bases[number])] : []);
const found = {
  alone: job.texts.map((text, number) => embed([text], ...rope(number))[0]),
  groups: job.groups.map((group) => embed(group.map((number) => job.texts[number]))),
};
fs.writeFileSync(output, JSON.stringify(found));
