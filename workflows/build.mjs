// Makes a template for the editor from api/NAME.json and the note in api/NAME.md, with the frontend's own code.
// node build.mjs URL NAME...   (dev.py workflow NAME starts the host and the rest)
// A node's _meta says more than its title: "inside" names the subgraph that it is shown in, "group" its group where that is not
// told by its kind, "models" where its file comes from.
import fs from "node:fs";
import path from "node:path";

import { openFrontend } from "./frontend.mjs";
import { layout } from "./layout.mjs";
import { asked, folded, noted, opened, put } from "./page.mjs";
import { mended } from "./mended.mjs";

const folder = import.meta.dirname;
const [url, ...names] = process.argv.slice(2);
const titles = JSON.parse(fs.readFileSync(path.join(folder, "browser", "names.json")));
const NOTE_WIDTHS = [380, 460, 560, 700, 800];
const LOOK = /^(SaveImage|PreviewImage|PreviewAny|RepeatImageBatch|Guidance_(ContactSheet|GuideReport|RankImages|CLIPScore|ZeroShotClassify))$/;
const LOAD = /Load|TextEncode|ClassConditioning|TextConditioning|Empty|ImageScale|Mask|EncoderFrom|FluxGuidance/;
const SAMPLE = /Sampler|Scheduler|Sigmas|Guider|Noise|VAEDecode|Inversion|StochasticEncode/;
const DRAWS = /^(KSampler|KSamplerAdvanced|SamplerCustomAdvanced|Guidance_ClassifierGuidedSampler)$/; // with a live preview

/** By what its nodes do; of a subgraph, by its last node. */
function groupOf(type) {
  if (LOOK.test(type)) return "4 look";
  if (LOAD.test(type)) return "1 load";
  return SAMPLE.test(type) ? "3 sample" : "2 guide";
}

const { browser, page } = await openFrontend(url);
await page.evaluate(() => (app.canvas.pause_rendering = true)); // nobody looks
for (const name of names) {
  const title = titles[name];
  if (!title) throw new Error(`${name} has no name to be seen in the template browser; give it one in workflows/browser/names.json`);
  const api = JSON.parse(fs.readFileSync(path.join(folder, "api", `${name}.json`)));
  const note = fs.readFileSync(path.join(folder, "api", `${name}.md`), "utf8");
  await modern(true); // before the graph is there: its nodes get sizes of their own
  await page.evaluate(opened, { api, note, name });
  await page.evaluate(folded, api);
  const { boxes, notes } = await measured();
  for (const box of boxes) box.group = box.wanted ?? groupOf(box.type);
  for (const box of boxes) box.grows = /^(SaveImage|PreviewImage)$/.test(box.type);
  for (const box of boxes) box.draws = box.folded || DRAWS.test(box.type);
  const block = layout(boxes, notes);
  if (!block) {
    console.error(`${name} fits no block of 1800 x 1000: name parts of it with "inside" in _meta, or shorten its note`);
    process.exitCode = 1;
    continue;
  }
  const workflow = mended(await page.evaluate(put, block));
  fs.writeFileSync(path.join(folder, "..", "example_workflows", `${title}.json`), JSON.stringify(workflow, null, 1) + "\n");
  console.log(`${title}: ${Math.round(block.width)} x ${Math.round(block.height)}`);
}
await browser.close();

/** Boxes as large as they are in the larger of both renderers, and the note. */
async function measured() {
  const dom = await settled();
  const notes = await page.evaluate(noted, NOTE_WIDTHS);
  await modern(false);
  const canvas = await settled();
  const larger = (a, b) => ({ ...a, width: Math.max(a.width, b.width), height: Math.max(a.height, b.height) });
  return { boxes: canvas.map((box, index) => larger(box, dom[index])), notes };
}

/** What every node asks for, once it asks for the same twice: a busy machine draws late. */
async function settled() {
  let [before, boxes] = [null, null];
  do {
    before = boxes;
    await page.waitForTimeout(700);
    boxes = await page.evaluate(asked);
  } while (JSON.stringify(boxes) !== JSON.stringify(before));
  return boxes;
}

async function modern(on) {
  await page.evaluate((on) => app.extensionManager.setting.set("Comfy.VueNodes.Enabled", on), on);
  await page.waitForTimeout(300);
}
