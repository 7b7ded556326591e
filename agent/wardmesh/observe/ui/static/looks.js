// SPDX-License-Identifier: Apache-2.0
// How nodes and edges look. A state is told twice: by a colour, and by the line and the end of its arrow.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const edge = (kind, more) => ({
  selector: `edge.${kind}`,
  style: { "line-color": colour(kind), "target-arrow-color": colour(kind), ...more },
});

export function looks() {
  const text = { color: colour("text"), "text-outline-color": colour("ground"), "text-outline-width": 2 };
  return [
    {
      selector: "node",
      style: {
        ...text,
        label: "data(title)",
        width: 22,
        height: 22,
        "font-size": 11,
        "min-zoomed-font-size": 7,
        "text-valign": "bottom",
        "text-margin-y": 3,
        "background-color": colour("node"),
        "border-width": 1,
        "border-color": colour("ground"),
      },
    },
    { selector: "node.world", style: { shape: "diamond", width: 30, height: 30, "background-color": colour("world") } },
    { selector: "node.group", style: { shape: "hexagon", width: 38, height: 38, "background-color": colour("group") } },
    {
      selector: "node.wrong",
      style: { shape: "octagon", "border-width": 3, "border-style": "dashed", "border-color": colour("dropped") },
    },
    {
      selector: "node.title",
      style: {
        "background-opacity": 0, "border-width": 0, width: 1, height: 1, "font-size": "data(size)", "font-weight": "bold",
        "text-valign": "center", "min-zoomed-font-size": 0, events: "no", color: colour("faint"),
      },
    },
    {
      selector: "edge",
      style: {
        ...text,
        width: "data(width)",
        "curve-style": "straight",
        "arrow-scale": 0.8,
        "font-size": 9,
        "min-zoomed-font-size": 8,
        "text-rotation": "autorotate",
        "line-style": "solid",
      },
    },
    { selector: "edge.few", style: { "curve-style": "bezier", label: "data(ports)" } },
    { selector: "edge.many", style: { opacity: 0.25, "arrow-scale": 0.6 } },
    { selector: "edge.many.audited, edge.many.dropped", style: { opacity: 0.9, "z-index": 1 } },
    edge("encrypted", { "target-arrow-shape": "triangle" }),
    edge("plain", { "line-style": "dotted", "target-arrow-shape": "vee" }),
    edge("audited", { "line-style": "dashed", "line-dash-pattern": [12, 4], "target-arrow-shape": "diamond" }),
    edge("dropped", { "line-style": "dashed", "line-dash-pattern": [4, 4], "target-arrow-shape": "tee" }),
    { selector: ".over", style: { "overlay-color": colour("focus"), "overlay-opacity": 0.25 } },
  ];
}
