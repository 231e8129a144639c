// Opens the real frontend, loads a workflow from the template browser's list, queues it from the page, and keeps screenshots.
// node run_template.mjs URL PACK TEMPLATE FOLDER   -> one line of JSON; playwright-core from GUIDANCE_PLAYWRIGHT.
import { createRequire } from "node:module";

const { chromium } = createRequire(import.meta.url)(process.env.GUIDANCE_PLAYWRIGHT);
const [url, pack, template, folder] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"],
});
const page = await browser.newPage({ viewport: { width: 1600, height: 1000 } });
const problems = [];
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
page.on("pageerror", (error) => problems.push(String(error)));

try {
  await page.goto(url, { waitUntil: "domcontentloaded" });
  await page.waitForFunction(
    () => window.app?.extensionManager && window.app.graph && Object.keys(LiteGraph.registered_node_types).length > 100,
    null,
    { timeout: 120_000 },
  );
  await page.evaluate(() => app.extensionManager.setting.set("Comfy.Minimap.Visible", false));
  await page.evaluate(() => app.extensionManager.command.execute("Comfy.BrowseTemplates"));
  await page.waitForTimeout(2500);
  await page.screenshot({ path: `${folder}/templates.png` });
  const category = page.getByText(pack, { exact: true }).first();
  if (await category.count()) await category.click();
  const card = page.locator(`[data-testid="template-workflow-${template}"]`).first();
  await card.waitFor({ timeout: 30_000 });
  await page.screenshot({ path: `${folder}/category.png` });
  await card.click();
  await page.waitForFunction(() => app.graph._nodes.some((node) => node.type.startsWith("Guidance_")), null, { timeout: 30_000 });
  await page.evaluate(() => app.extensionManager.command.execute("Comfy.Canvas.FitView"));
  await page.waitForTimeout(1500);
  await page.screenshot({ path: `${folder}/loaded.png` });
  const missing = await page.evaluate(() =>
    app.graph._nodes.map((node) => node.type).filter((type) => !LiteGraph.registered_node_types[type] && !/Note/.test(type)),
  );
  const overlay = await page.locator('[data-testid="error-overlay"]').count();
  const done = page.evaluate(
    () =>
      new Promise((resolve, reject) => {
        app.api.addEventListener("execution_success", () => resolve("success"));
        app.api.addEventListener("execution_error", (event) => reject(new Error(event.detail.exception_message)));
        app.queuePrompt(0, 1);
      }),
  );
  const outcome = await done;
  await page.waitForTimeout(2500);
  await page.screenshot({ path: `${folder}/finished.png` });
  const shown = await page.evaluate(() => app.graph._nodes.filter((node) => node.imgs?.length).map((node) => node.type));
  const converted = await page.evaluate(async () => (await app.graphToPrompt()).output);
  const prompt = Object.fromEntries(
    Object.entries(converted).map(([id, node]) => [id, { class_type: node.class_type, inputs: node.inputs }]),
  );
  console.log(JSON.stringify({ missing, prompt, overlay, outcome, shown, problems }));
} catch (error) {
  await page.screenshot({ path: `${folder}/failed.png` });
  console.log(JSON.stringify({ error: String(error), problems }));
  process.exitCode = 1;
} finally {
  await browser.close();
}
