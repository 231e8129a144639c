// Widgets that a subgraph shows on its outside, in a saved workflow.

/** Gives them the values that they have inside: the frontend saves those of graphs that were open before. */
export function agreed(workflow) {
  const subgraphs = new Map((workflow.definitions?.subgraphs ?? []).map((part) => [part.id, part]));
  for (const node of workflow.nodes) agree(node, subgraphs);
  return workflow;
}

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
