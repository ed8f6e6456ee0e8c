
"use strict";
// Elements and small plots. Text gets into the page by textContent only: names of services, paths and reasons of
// failures come from elsewhere, and are never markup.

const SVG = "http://www.w3.org/2000/svg";

function put(parent, name, properties, ...children) {
  const made = parent.namespaceURI === SVG || name === "svg"
    ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(properties || {})) {
    if (key === "text") made.textContent = value;
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  parent.append(made);
  return made;
}

function fresh(name, properties) {
  return put(document.createDocumentFragment(), name, properties);
}

const PLACES = 60;

// A line over the last minute, and a bar for the errors of each second.
function sparkline(parent, history, label) {
  const values = history ? history.requests_per_second : [];
  const errors = history ? history.errors_per_second : [];
  const most = Math.max(1e-9, ...values);
  const plot = put(parent, "svg", {class: "plot", viewBox: "0 0 60 20", preserveAspectRatio: "none", role: "img", "aria-label": label});
  const path = (series) => {
    const first = PLACES - series.length;
    return series.map((value, index) => `${index ? "L" : "M"}${first + index + .5} ${(19 - 17 * value / most).toFixed(2)}`).join("");
  };
  if (values.length > 1) {
    const left = PLACES - values.length + .5;
    put(plot, "path", {class: "area", d: `${path(values)}L59.5 20L${left} 20Z`});
    put(plot, "path", {class: "line", d: path(values)});
  }
  else put(plot, "path", {class: "area", d: "M0 19H60V20H0Z"});
  const bars = errors.map((value, index) => (value > 0 ? `M${PLACES - errors.length + index + .5} 20V${(19 - 17 * value / most).toFixed(2)}` : ""));
  put(plot, "path", {class: "errors", d: bars.join("")});
  return plot;
}

// Where half of the requests, nine in ten, and 99 in a hundred lie, between a tenth of a millisecond and ten seconds,
// each power of ten as wide as the next.
function latencyRange(parent, latency) {
  const box = put(parent, "div", {class: "range"});
  const label = latency
    ? `half of the requests under ${milliseconds(latency.p50)}, 90 % under ${milliseconds(latency.p90)}, 99 % under ${milliseconds(latency.p99)}`
    : "no requests";
  const plot = put(box, "svg", {viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img", "aria-label": label});
  put(plot, "title", {text: label});
  put(plot, "line", {class: "track", x1: 0, x2: 100, y1: 6, y2: 6, "vector-effect": "non-scaling-stroke"});
  if (latency) {
    const at = (ms) => 2 + 96 * Math.min(1, Math.max(0, (Math.log10(ms) + 1) / 5));
    const [p50, p90, p99] = [at(latency.p50), at(latency.p90), at(latency.p99)];
    put(plot, "line", {class: "span", x1: p50, x2: p99, y1: 6, y2: 6, "vector-effect": "non-scaling-stroke"});
    put(plot, "rect", {class: "mid", x: p50 - .5, width: 1, y: 1, height: 10});
    put(plot, "rect", {class: "end", x: p90 - .35, width: .7, y: 2.5, height: 7});
  }
  put(box, "span", {class: "text", text: latency ? `${milliseconds(latency.p50)} · ${milliseconds(latency.p99)}` : "–"});
  return box;
}

function milliseconds(ms) {
  if (ms >= 10000) return `${Math.round(ms / 1000)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return ms >= 10 ? `${Math.round(ms)} ms` : `${ms.toFixed(1)} ms`;
}

function rate(value) {
  if (!value) return "0";
  if (value < 0.1) return value.toFixed(2);
  if (value < 10) return value.toFixed(1);
  return Math.round(value).toLocaleString("en");
}

function percent(share) {
  if (!share) return "0 %";
  const value = share * 100;
  return value < 0.1 ? "<0.1 %" : `${value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let place = 0;
  while (value >= 1000 && place < units.length - 1) { value /= 1000; place += 1; }
  return `${place && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[place]}`;
}

function duration(seconds) {
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

function counted(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
