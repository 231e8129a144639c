// What the frontend saves wrongly of subgraphs, put right in the saved workflow.

export function mended(workflow) {
  const subgraphs = new Map((workflow.definitions?.subgraphs ?? []).map((part) => [part.id, part]));
  for (const part of [workflow, ...subgraphs.values()]) inOrder(part);
  for (const node of workflow.nodes) agree(node, subgraphs);
  return workflow;
}

/** Inputs that grow in the order of their numbers, and links that know the places of their inputs. */
function inOrder({ nodes, links }) {
  const known = new Map(links.map((link) => [Array.isArray(link) ? link[0] : link.id, link]));
  for (const { inputs } of nodes) {
    const grown = (inputs ?? []).filter(({ name }) => /\.\D+\d+$/.test(name));
    if (!grown.length) continue;
    const first = inputs.indexOf(grown[0]);
    const others = inputs.filter((input) => !grown.includes(input));
    const number = ({ name }) => Number(name.match(/\d+$/)[0]);
    inputs.splice(0, inputs.length, ...others.slice(0, first), ...grown.sort((a, b) => number(a) - number(b)), ...others.slice(first));
    for (const [slot, input] of inputs.entries()) {
      const link = known.get(input.link);
      if (Array.isArray(link)) link[4] = slot;
      else if (link) link.target_slot = slot;
    }
  }
}

/** Widgets that a subgraph shows outside get the values that they have inside: it saves those of graphs that were open before. */
function agree(node, subgraphs) {
  const subgraph = subgraphs.get(node.type);
  if (!subgraph) return;
  for (const inner of subgraph.nodes) agree(inner, subgraphs);
  const shown = node.inputs.filter((input) => input.widget).map(({ name }) => subgraph.inputs.find((input) => input.name === name));
  if (shown.length) node.widgets_values = shown.map((input) => within(subgraph, input));
}

/** What the widget holds that an input of a subgraph leads to. */
function within(subgraph, input) {
  const link = subgraph.links.find((link) => link.id === input.linkIds[0]);
  const inner = subgraph.nodes.find((node) => node.id === link.target_id);
  const { name } = inner.inputs[link.target_slot].widget;
  const names = inner.inputs.flatMap(({ widget }) => (widget ? [widget.name] : []));
  const own = inner.widgets_values.filter((value, place) => !(place && ["fixed", "randomize", "increment", "decrement"].includes(value)));
  return own[names.indexOf(name)];
}
