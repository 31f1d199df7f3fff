// Embed the texts of a job with llama.cpp, through node-llama-cpp.
//
// node read_llama_cpp.mjs JOB_DIRECTORY PROGRAM OUTPUT
//
// The job and the output are those of read.py; model.gguf lies in the job's directory, the packages in the current one.
// llama.cpp embeds one text after the other here, so groups are read as their texts. PROGRAM "llama.cpp-rope" sets the
// base of RoPE for each text, as `--rope-freq-base` does, and the context to the longest text.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [jobDirectory, program, output] = process.argv.slice(2);
const job = JSON.parse(fs.readFileSync(path.join(jobDirectory, "job.json"), "utf8"));
const require = createRequire(path.join(process.cwd(), "package.json"));
const { getLlama } = await import(pathToFileURL(require.resolve("node-llama-cpp")).href);
const llama = await getLlama({ gpu: false, build: "never", skipDownload: true });

async function open(metadata, longest) {
  const model = await llama.loadModel({
    modelPath: path.join(jobDirectory, "model.gguf"),
    metadataOverrides: { "nomic-bert": metadata },
  });
  const contextSize = longest + 64; // node-llama-cpp keeps some tokens free
  // the batch must hold the whole context, or a long text is split and gets another embedding
  const context = await model.createEmbeddingContext({ contextSize, batchSize: contextSize });
  const embed = async (text) => {
    const { vector } = await context.getEmbeddingFor(text);
    const norm = Math.hypot(...vector);
    return vector.map((value) => value / norm);
  };
  return { model, embed };
}

const found = { alone: [], groups: [] };
if (program === "llama.cpp-rope") {
  const longest = Math.max(...job.tokens);
  for (const [number, text] of job.texts.entries()) {
    const { model, embed } = await open({ context_length: longest + 64, rope: { freq_base: job.bases[number] } }, longest);
    found.alone.push(await embed(text));
    await model.dispose();
  }
} else {
  const { embed } = await open({}, job.longest);
  for (const text of job.texts) found.alone.push(await embed(text));
  for (const group of job.groups) {
    const embeddings = [];
    for (const number of group) embeddings.push(await embed(job.texts[number]));
    found.groups.push(embeddings);
  }
}
fs.writeFileSync(output, JSON.stringify(found));
process.exit(0);
