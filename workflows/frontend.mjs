// The host's frontend in headless Chromium, once its nodes are there. playwright-core comes from GUIDANCE_PLAYWRIGHT.
import { createRequire } from "node:module";

const { chromium } = createRequire(import.meta.url)(process.env.GUIDANCE_PLAYWRIGHT);

export async function openFrontend(url) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"],
  });
  const page = await browser.newPage({ viewport: { width: 1600, height: 1000 } });
  await page.goto(url, { waitUntil: "domcontentloaded" });
  await page.waitForFunction(
    () =>
      window.app?.extensionManager?.workflow?.activeWorkflow && // its own first workflow is there, and can't replace ours
      Object.keys(LiteGraph.registered_node_types).length > 100,
    null,
    { timeout: 120_000 },
  );
  return { browser, page };
}
