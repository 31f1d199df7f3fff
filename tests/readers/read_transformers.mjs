// Embed the texts of a job with transformers.js in Node, as its users do.
//
// node read_transformers.mjs JOB_DIRECTORY PROGRAM OUTPUT
//
// The job and the output are those of read.py. The packages lie in the current directory.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [jobDirectory, program, output] = process.argv.slice(2);
const require = createRequire(path.join(process.cwd(), "package.json"));
const { env, layer_norm, pipeline } = await import(pathToFileURL(require.resolve("@huggingface/transformers")).href);

const job = JSON.parse(fs.readFileSync(path.join(jobDirectory, "job.json"), "utf8"));
env.allowRemoteModels = false;
env.localModelPath = path.dirname(job.model) + path.sep;
const extractor = await pipeline("feature-extraction", path.basename(job.model), {
  dtype: program.endsWith("-q8") ? "q8" : "fp32",
});
const embed = async (texts) => {
  if (!job.layer_norm) return (await extractor(texts, { pooling: "mean", normalize: true })).tolist();
  const means = await extractor(texts, { pooling: "mean" });
  return layer_norm(means, [means.dims[1]]).normalize(2, -1).tolist();
};

const found = { alone: [], groups: [] };
for (const text of job.texts) found.alone.push((await embed([text]))[0]);
for (const group of job.groups) found.groups.push(await embed(group.map((number) => job.texts[number])));
fs.writeFileSync(output, JSON.stringify(found));
