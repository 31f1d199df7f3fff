// Embed the texts of a job with llama.cpp, through node-llama-cpp.
//
// node read_llama_cpp.mjs JOB_DIRECTORY PROGRAM OUTPUT
//
// The job and the output are those of read.py; model.gguf lies in the job's directory, the packages in the current one.
// llama.cpp embeds one text after the other here, so groups are read as their texts.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [jobDirectory, , output] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(path.join(jobDirectory, "job.json"), "utf8"));
const require = createRequire(path.join(process.cwd(), "package.json"));
const { getLlama } = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true });

const model = await llama.loadModel({ modelPath: path.join(jobDirectory, "model.gguf") });
const contextSize = job.longest + 64; // node-llama-cpp keeps some tokens free
// the batch must hold the whole context, or a long text is split and gets another embedding
const context = await model.createEmbeddingContext({ contextSize, batchSize: contextSize });
const embed = async (number) => {
  const { vector } = await context.getEmbeddingFor(job.texts[number]);
  const norm = Math.hypot(...vector);
  return vector.map((value) => value / norm);
};
const embedAll = async (numbers) => {
  const embeddings = [];
  for (const number of numbers) embeddings.push(await embed(number));
  return embeddings;
};

const found = { alone: await embedAll(job.texts.keys()), groups: [] };
for (const group of job.groups) found.groups.push(await embedAll(group));
fs.writeFileSync(output, JSON.stringify(found));
process.exit(0);
