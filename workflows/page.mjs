// What build.mjs does within the page, with the frontend's own objects. Each function is sent there whole.

/** Loads an API workflow with its titles, its note, and nothing that changes by itself. */
export async function opened({ api, note, name }) {
  app.clean(); // pictures of the workflow before, which would make nodes larger
  await app.loadApiJson(api, name);
  for (const node of app.graph._nodes) {
    const { title, models } = api[String(node.id)]?._meta ?? {};
    if (title) node.title = title;
    if (models) node.properties.models = models;
    for (const widget of node.widgets ?? []) if (widget.name === "control_after_generate") widget.value = "fixed";
  }
  const text = LiteGraph.createNode("MarkdownNote");
  text.title = "About this workflow";
  Object.assign(text, LGraphCanvas.node_colors.blue); // on a note's brown the new renderer's grey can't be read
  app.graph.add(text);
  text.widgets[0].value = note;
}

/** Nodes with the same "inside" become one subgraph of that title; "outer/inner" are two, the one in the other. */
export async function folded(api) {
  const known = new Map(app.graph._nodes.map((node) => [node, api[String(node.id)]?._meta ?? {}]));
  app.graph.arrange(60);
  // a node whose inputs grow would drop those that lose their link for a moment
  const growing = app.graph._nodes.map((node) => [node, node.onConnectionsChange]);
  for (const [node] of growing) node.onConnectionsChange = undefined;
  for (;;) {
    const wanted = [...known.values()].map((meta) => meta.inside).filter(Boolean);
    if (!wanted.length) break;
    const deepest = wanted.sort((a, b) => b.split("/").length - a.split("/").length)[0];
    const nodes = app.graph._nodes.filter((node) => known.get(node)?.inside === deepest);
    const { subgraph, node } = app.graph.convertToSubgraph(new Set(nodes));
    const outer = deepest.split("/");
    node.title = subgraph.name = outer.pop();
    known.set(node, { group: nodes.map((inner) => known.get(inner).group).find(Boolean), inside: outer.join("/") });
    node.properties.shown = { wanted: known.get(node).group, type: nodes.at(-1).type };
    for (const inner of nodes) known.delete(inner);
    for (const inner of subgraph._nodes) inner.size = inner.computeSize();
    subgraph.arrange(60);
  }
  for (const [node, changed] of growing) node.onConnectionsChange = changed;
  // from what is shown back to what is loaded, so that a decoder follows its sampler
  const order = [];
  const visit = (node) => {
    if (order.includes(node)) return;
    for (const input of node.inputs ?? []) {
      const link = app.graph.getLink(input.link);
      if (link) visit(app.graph.getNodeById(link.origin_id));
    }
    order.push(node);
  };
  const nodes = app.graph._nodes.filter((node) => node.type !== "MarkdownNote");
  const last = nodes.filter((node) => !node.outputs?.some((output) => output.links?.length));
  for (const node of [...last, ...nodes]) visit(node);
  app.built = order.map((node) => ({ node, group: api[String(node.id)]?._meta?.group }));
  for (const { node } of app.built) node.setSize([250, 40]);
  await app.extensionManager.command.execute("Comfy.Canvas.FitView");
}

/** How large every node must be in the renderer that is on, its title included. */
export function asked() {
  const bar = LiteGraph.NODE_TITLE_HEIGHT;
  const dom = app.extensionManager.setting.get("Comfy.VueNodes.Enabled");
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = "14px Inter, sans-serif";
  return app.built.map(({ node, group }) => {
    const shown = node.properties.shown ?? { type: node.type };
    const element = dom && document.querySelector(`[data-node-id="${node.id}"]`);
    const [width, height] = element ? [0, element.offsetHeight - bar] : node.computeSize();
    const title = pen.measureText(node.title).width + 70; // and what stands beside it
    const size = { width: Math.max(250, width, title), height: height + bar };
    return { id: node.id, type: shown.type, wanted: group ?? shown.wanted, folded: Boolean(node.subgraph), ...size };
  });
}

/** How high the note is at some widths, in the renderer that lets it grow with its text. */
export async function noted(widths) {
  const note = app.graph._nodes.find((node) => node.type === "MarkdownNote");
  const notes = [];
  for (const width of widths) {
    note.setSize([width, 100]);
    const element = document.querySelector(`[data-node-id="${note.id}"]`);
    let [before, height] = [-1, 0];
    while (height !== before) {
      before = height; // a busy machine draws late
      await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 200)));
      height = element.offsetHeight;
    }
    notes.push({ width, height });
  }
  return notes;
}

/** Moves everything to its place; the workflow as the editor saves it, without a view of its own. */
export function put({ places, groups }) {
  const bar = LiteGraph.NODE_TITLE_HEIGHT;
  const set = (node, { left, top, width, height }) => {
    node.pos = [Math.round(left), Math.round(top + bar)];
    node.setSize([Math.round(width), Math.round(height - bar)]);
  };
  for (const { node } of app.built) {
    delete node.properties.shown;
    set(node, places[node.id]);
  }
  set(
    app.graph._nodes.find((node) => node.type === "MarkdownNote"),
    places.note,
  );
  for (const { title, left, top, width, height } of groups) {
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [Math.round(left), Math.round(top)];
    group.size = [Math.round(width), Math.round(height)];
    app.graph.add(group);
  }
  const workflow = app.graph.serialize();
  delete workflow.extra.ds;
  return workflow;
}

/** The one subgraph of a graph without the rest, with the widgets that its nodes show outside. */
export function alone({ api, about }) {
  const node = app.graph._nodes.find((node) => node.subgraph);
  for (const other of [...app.graph._nodes]) if (other !== node) app.graph.remove(other);
  for (const [id, { _meta }] of Object.entries(api))
    for (const widget of _meta.shown ?? []) {
      const inner = node.subgraph.getNodeById(Number(id));
      const slot = inner.inputs.find((input) => input.widget?.name === widget);
      node.subgraph.addInput(widget, slot.type).connect(slot, inner);
    }
  node.pos = [0, 0];
  node.setSize([280, node.computeSize()[1]]);
  const workflow = app.graph.serialize();
  const [definition] = workflow.definitions.subgraphs;
  definition.category = "guidance";
  definition.description = about;
  workflow.extra = { BlueprintDescription: about };
  return { title: node.title, workflow };
}
