// Does in the real frontend what a person does, keeps screenshots, and writes down what was there.
// node drive.mjs URL PLAN.json FOLDER   -> FOLDER/found.json; PLAN.json is written by test_browser.py.
import fs from "node:fs";

import { openFrontend } from "../../workflows/frontend.mjs";

const [url, plan, folder] = process.argv.slice(2);
const { pack, templates, first, queued, blueprint, node, languages } = JSON.parse(fs.readFileSync(plan));
const { browser, page } = await openFrontend(url);
const PATIENT = { timeout: 1_200_000 }; // a shared machine may be ten times as slow as one of its own
const found = { problems: [], templates: {}, queued: {}, help: {} };
page.on("console", (message) => message.type() === "error" && found.problems.push(message.text()));
page.on("pageerror", (error) => found.problems.push(String(error)));

const set = (name, value) => page.evaluate(([name, value]) => app.extensionManager.setting.set(name, value), [name, value]);
const shoot = (name) => page.screenshot({ path: `${folder}/${name.replace(/[^\w.-]+/g, "_")}.png` });

/** From the template browser, by clicks alone, to a picture on a node. */
async function started() {
  const card = page.locator(`[data-testid="template-workflow-${first}"]`).first();
  if (!(await page.locator('[data-testid="template-workflows-content"], [data-testid^="template-workflow-"]').count()))
    await page.getByText("Templates", { exact: true }).first().click();
  await page.waitForTimeout(2500);
  const category = page.getByText(pack, { exact: true }).first();
  if (!(await category.isVisible())) await page.getByText("Extensions", { exact: true }).first().click();
  await category.click();
  await page.waitForTimeout(2000);
  await shoot("template_browser");
  await page.getByPlaceholder(/search/i).last().fill("start"); // they come in the order of the disk
  await card.waitFor({ timeout: 30_000 });
  await shoot("template_found");
  await card.click();
  await page.waitForFunction(() => app.graph._nodes.some((node) => node.type.startsWith("Guidance_")), null, { timeout: 30_000 });
  await page.waitForTimeout(1500);
  await shoot("first_sight");
  const outcome = await outcomeOf(() => page.locator('[data-testid="queue-button"]').first().click());
  await page.waitForTimeout(2500);
  await shoot("first_result");
  return { outcome, shown: await page.evaluate(() => app.graph._nodes.filter((node) => node.imgs?.length).map((node) => node.type)) };
}

/** What becomes of the prompt that an act queues, and of no other. */
async function outcomeOf(queue) {
  const answered = page.waitForResponse((one) => one.url().endsWith("/prompt") && one.request().method() === "POST", PATIENT);
  await queue();
  const answer = await answered;
  if (!answer.ok()) return `refused: ${await answer.text()}`;
  const { prompt_id: id } = await answer.json();
  for (let end = Date.now() + PATIENT.timeout; Date.now() < end; await page.waitForTimeout(500)) {
    const { status } = (await (await fetch(`${url}/history/${id}`)).json())[id] ?? {};
    if (status?.status_str === "success") return "success";
    if (status?.status_str === "error") return status.messages.at(-1)[1].exception_message ?? "interrupted";
  }
  return `not done after ${PATIENT.timeout / 1000} s`;
}

/** Opens a template as the template browser does; what is missing or cut, how large it is shown, what would be queued. */
async function opened(name, modern = false) {
  const workflow = JSON.parse(await (await fetch(`${url}/api/workflow_templates/${pack}/${encodeURIComponent(name)}.json`)).text());
  await page.evaluate(([workflow, name]) => app.loadGraphData(workflow, true, true, name, { openSource: "template" }), [workflow, name]);
  await page.waitForTimeout(1200);
  await shoot(`template_${name}${modern ? "_nodes2" : ""}`);
  const prompt = await queueable();
  const seen = await page.evaluate((modern) => {
    const graphs = [app.rootGraph ?? app.graph, ...(app.rootGraph ?? app.graph).subgraphs.values()];
    const types = graphs.flatMap((graph) => graph._nodes.map((node) => node.type));
    const bare = app.graph._nodes.filter((node) => !node.imgs); // a picture takes the room that there is
    const titles = [...document.querySelectorAll('[data-testid="node-title"]')];
    return {
      missing: types.filter((type) => !LiteGraph.registered_node_types[type]),
      zoom: app.canvas.ds.scale,
      squeezed: modern ? [] : bare.filter((node) => node.size[1] + 1 < node.computeSize()[1]).map((node) => node.title),
      cut: titles.filter((title) => title.scrollWidth > title.clientWidth).map((title) => title.textContent),
    };
  }, modern);
  return { ...seen, prompt };
}

/** What would be queued of what is open. */
async function queueable() {
  const { output } = await page.evaluate(() => app.graphToPrompt());
  return Object.fromEntries(Object.entries(output).map(([id, { class_type, inputs }]) => [id, { class_type, inputs }]));
}

/** Runs what is open, cut short to a few steps; with its prompt. */
async function ran() {
  await page.evaluate(() => {
    const root = app.rootGraph ?? app.graph;
    for (const graph of [root, ...root.subgraphs.values()])
      for (const node of graph._nodes)
        for (const widget of node.widgets ?? []) if (widget.name === "steps") widget.value = Math.min(widget.value, 4);
  });
  const prompt = await queueable();
  return { outcome: await outcomeOf(() => page.evaluate(() => app.queuePrompt(0, 1))), prompt };
}

/** A blueprint out of the node library onto the canvas, in the place of the nodes that it is made of. */
async function placed({ name, workflow }) {
  await page.evaluate((workflow) => app.loadGraphData(workflow), workflow);
  await page.waitForTimeout(1000);
  await page.mouse.move(800, 900);
  await page.keyboard.press("n");
  await page.waitForTimeout(1000);
  await page.getByPlaceholder(/search/i).first().fill(name);
  await page.waitForTimeout(1500);
  await shoot("blueprint_listed");
  await page.getByText(name, { exact: true }).last().click();
  await page.mouse.move(800, 850);
  await page.mouse.click(800, 850);
  await page.waitForTimeout(1500);
  await shoot("blueprint_placed");
  const inputs = await page.evaluate(() => {
    const node = app.graph._nodes.find((node) => node.subgraph);
    if (!node) return null;
    const source = { LATENT: "Guidance_EmptyPixelLatent", GUIDANCE_ENCODER: "Guidance_LoadEncoder", CONDITIONING: "Guidance_ClassConditioning" };
    for (const [place, input] of node.inputs.entries()) {
      const from = app.graph._nodes.find((other) => other.type === (source[input.type] ?? "Guidance_LoadModel"));
      const slot = from.outputs.findIndex((output) => output.type === input.type);
      if (slot >= 0) from.connect(slot, node, place);
    }
    node.connect(0, app.graph._nodes.find((other) => other.type === "PreviewImage"), 0);
    return node.inputs.map((input) => input.name);
  });
  return { inputs, ...(inputs ? await ran() : {}) };
}

/** What the help panel says of a node in a language. */
async function helped(language) {
  await set("Comfy.Locale", language);
  await page.waitForTimeout(1000);
  await opened(first); // what was selected is forgotten while the words change
  const title = await page.evaluate((type) => {
    const { pos } = app.graph._nodes.find((node) => node.type === type);
    const [x, y] = app.canvas.convertOffsetToCanvas([pos[0] + 60, pos[1] - LiteGraph.NODE_TITLE_HEIGHT / 2]);
    const { left, top } = app.canvas.canvas.getBoundingClientRect();
    return [left + x, top + y];
  }, node);
  await page.mouse.click(...title); // the toolbox follows clicks, not what is selected by code
  await page.locator('[data-testid="info-button"]').first().click();
  await page.locator(".node-help-content").first().waitFor();
  await page.waitForTimeout(2000);
  await shoot(`help_${language}`);
  return page.locator(".node-help-content").first().innerText();
}

try {
  await set("Comfy.Minimap.Visible", false);
  found.started = await started();
  for (const modern of [false, true]) {
    await set("Comfy.VueNodes.Enabled", modern);
    for (const name of modern ? templates.filter((_, place) => place % 4 === 0) : templates) {
      found.templates[`${name}${modern ? ", Nodes 2.0" : ""}`] = await opened(name, modern);
    }
  }
  await set("Comfy.VueNodes.Enabled", false);
  for (const name of queued) {
    await opened(name);
    found.queued[name] = await ran();
  }
  found.blueprint = await placed(blueprint);
  for (const language of languages) found.help[language] = await helped(language);
} catch (error) {
  await shoot("failed");
  found.error = String(error);
} finally {
  fs.writeFileSync(`${folder}/found.json`, JSON.stringify(found, null, 1));
  await browser.close();
}
