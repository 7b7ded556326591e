// SPDX-License-Identifier: Apache-2.0
// Where nodes stand. Few: by the library's forces, for at most so many rounds. Many: every group is a disc of
// its own and discs stand in rows, which takes no time and moves nobody when a connection comes.

export const FEW = 60;
const GAP = 46; // between nodes of a disc
const ROOM = 60; // pixels of height for the root of the number of nodes of a small map
const GOLDEN = Math.PI * (3 - Math.sqrt(5)); // a sunflower's angle: a disc is filled evenly

export const FORCES = {
  name: "cose",
  animate: false,
  randomize: false,
  fit: false,
  numIter: 400,
  idealEdgeLength: () => 110,
  nodeRepulsion: () => 200000,
  nodeOverlap: 30,
  componentSpacing: 60,
};

// Where a new node of a small map begins: on a circle, by its place among all.
export function onCircle(at, count) {
  const radius = 60 + 14 * count;
  const angle = (2 * Math.PI * at) / Math.max(1, count);
  return { x: radius * Math.cos(angle), y: radius * Math.sin(angle) };
}

// How a laid-out map is stretched to the shape of its window, so that words can be read when all of it is shown.
export function stretch(nodes, width, height) {
  const box = nodes.boundingBox({ includeLabels: false });
  const tall = Math.max(0.72 * height, ROOM * Math.sqrt(nodes.length));
  const wide = 0.86 * width * (tall / (0.72 * Math.max(1, height)));
  const factor = (wanted, given) => (given > 50 && wanted > 0 ? wanted / given : 1);
  return { x: factor(wide, box.w), y: factor(tall, box.h) };
}

// Id to position, and the title of each disc with its place. aspect: width of the window by its height.
export function discs(nodes, aspect) {
  const groups = new Map();
  for (const node of nodes) {
    if (!groups.has(node.place)) groups.set(node.place, []);
    groups.get(node.place).push(node);
  }
  const sorted = [...groups].sort((a, b) => b[1].length - a[1].length || (a[0] < b[0] ? -1 : 1));
  const sized = sorted.map(([title, members]) => ({ title, members, radius: GAP * (0.7 + Math.sqrt(members.length)) }));
  const area = sized.reduce((sum, disc) => sum + (2 * disc.radius) ** 2, 0);
  const width = Math.max(Math.sqrt(area * aspect), 2 * Math.max(...sized.map((disc) => disc.radius)));
  const places = new Map();
  const titles = [];
  let [x, y, height] = [0, 0, 0];
  for (const disc of sized) {
    if (x > 0 && x + 2 * disc.radius > width) [x, y, height] = [0, y + height, 0];
    fill(disc, x + disc.radius, y + disc.radius, places);
    if (disc.title) titles.push({ title: disc.title, size: disc.radius / 4, x: x + disc.radius, y: y + disc.radius / 5 });
    x += 2 * disc.radius;
    height = Math.max(height, 2 * disc.radius);
  }
  return { places, titles };
}

function fill(disc, x, y, places) {
  const members = [...disc.members].sort((a, b) => (a.title < b.title ? -1 : 1));
  members.forEach((node, at) => {
    const radius = GAP * 0.62 * Math.sqrt(at);
    places.set(node.id, { x: x + radius * Math.cos(at * GOLDEN), y: y + radius * Math.sin(at * GOLDEN) });
  });
}
