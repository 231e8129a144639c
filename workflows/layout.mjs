// Where nodes lie: the note and the results beside each other on top, what leads to them below, in a block that a screen holds.
// A box is { id, group, width, height }, its title included; a place is { left, top, width, height }.

const GAP = 16; // beside each other
const ROW = 24; // below each other: a loader says there that its file is missing
const INSET = 10; // of a group around its nodes
const HEADING = 40; // of a group, above its nodes
const LARGEST = { width: 1800, height: 1000 };
const SCREEN = { width: 1540, height: 940 }; // of a window of 1600 x 1000, without its bars
const NARROWEST_RESULT = 320;
const LOWEST_RESULT = 280;
const WORKINGS = ["1 load", "2 guide", "3 sample"];

/** Groups and places that show a graph largest, or null where it fits no block. `notes` holds { width, height } of the note. */
export function layout(boxes, notes) {
  const found = [];
  for (const note of notes)
    for (let upper = LOWEST_RESULT; upper < LARGEST.height; upper += 20)
      for (let lower = LOWEST_RESULT; lower < LARGEST.height - upper; lower += 10) {
        const block = arranged(boxes, note, upper, lower);
        if (block && block.width <= LARGEST.width && block.height <= LARGEST.height) found.push(block);
      }
  found.sort((a, b) => scale(b) - scale(a));
  return found[0] ?? null;
}

function scale(block) {
  return Math.min(SCREEN.width / block.width, SCREEN.height / block.height);
}

/** One arrangement, whose columns are at most `upper` and `lower` high; null where a box is higher. */
function arranged(boxes, note, upper, lower) {
  const of = (group) => boxes.filter((box) => box.group === group);
  const loaded = of("1 load").sort((a, b) => b.height - a.height); // in any order
  const look = of("4 look");
  const small = look.filter((box) => !box.grows);
  if (note.height > upper || boxes.some((box) => box.height > (box.group === "4 look" ? upper : lower))) return null;
  const beside = columns(small, upper);
  const growing = look.filter((box) => box.grows);
  const parts = WORKINGS.map((group) => ({ group, columns: columns(group === "1 load" ? loaded : of(group), lower) })).filter(
    (part) => part.columns.length,
  );
  const lowerWidth = sum(parts.map((part) => spread(part.columns) + 2 * INSET)) + GAP * (parts.length - 1);
  const fixed = note.width + GAP + 2 * INSET + (beside.length ? spread(beside) + GAP : 0);
  const width = Math.max(lowerWidth, fixed + growing.length * (NARROWEST_RESULT + GAP) - GAP);

  const places = { note: { left: 0, top: HEADING, width: note.width, height: upper } };
  const groups = [];
  const result = (width - fixed - GAP * (growing.length - 1)) / Math.max(1, growing.length);
  const shown = [...beside, ...growing.map((box) => ({ boxes: [{ ...box, height: upper }], width: result }))];
  groups.push({ title: "4 look", ...placed(shown, note.width + GAP, 0, upper, places) });
  const top = HEADING + upper + INSET + GAP;
  const rest = Math.max(...parts.flatMap((part) => part.columns.map(tall)));
  const spare = (width - lowerWidth) / Math.max(1, parts.length - 1); // the rows end together
  let left = 0;
  for (const part of parts) {
    groups.push({ title: part.group, ...placed(part.columns, left, top, rest, places) });
    left += groups.at(-1).width + GAP + (parts.length > 1 ? spare : 0);
  }
  return { width, height: top + HEADING + rest + INSET, places, groups };
}

/** Boxes one below the other, each in the first column with room for it. */
function columns(boxes, limit) {
  const found = [];
  for (const box of boxes) {
    const column = found.find((column) => tall(column) + ROW + box.height <= limit);
    if (column) column.boxes.push(box);
    else found.push({ boxes: [box] });
  }
  // what draws comes last, so that its preview covers nothing
  for (const column of found) column.boxes.sort((a, b) => Number(a.draws) - Number(b.draws));
  for (const column of found) column.width = Math.max(...column.boxes.map((box) => box.width));
  return found;
}

/** Puts columns side by side into `places`; the group around them. */
function placed(found, left, top, height, places) {
  let x = left + INSET;
  for (const column of found) {
    let y = top + HEADING;
    for (const box of column.boxes) {
      places[box.id] = { left: x, top: y, width: column.width, height: box.height };
      y += box.height + ROW;
    }
    x += column.width + GAP;
  }
  return { left, top, width: x - GAP + INSET - left, height: HEADING + height + INSET };
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const spread = (found) => sum(found.map((column) => column.width)) + GAP * (found.length - 1);
const tall = (column) => sum(column.boxes.map((box) => box.height)) + ROW * (column.boxes.length - 1);
