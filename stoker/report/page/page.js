"use strict";
// Shows the figures of a run. Text of rows goes in by textContent alone, so none of it is markup.
(() => {
  const data = JSON.parse(document.getElementById("figures").textContent);
  const at = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const PAGE = 40; // rows shown at a time

  function add(parent, tag, content, name) {
    const node = document.createElement(tag);
    if (content !== undefined && content !== null) node.textContent = content;
    if (name) node.className = name;
    parent.append(node);
    return node;
  }

  function draw(parent, tag, attributes, content) {
    const node = document.createElementNS(SVG, tag);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (content !== undefined) node.textContent = content;
    parent.append(node);
    return node;
  }

  // -- numbers ----------------------------------------------------------------------------

  const whole = (value) => Math.round(value).toLocaleString("en-US");

  function short(value) {
    const size = Math.abs(value);
    if (size >= 1e9) return trim(value / 1e9) + "G";
    if (size >= 1e6) return trim(value / 1e6) + "M";
    if (size >= 1e4) return trim(value / 1e3) + "k";
    return trim(value);
  }

  const trim = (value) => String(Number(value.toFixed(Math.abs(value) < 10 ? 2 : 1)));
  const percent = (value) => trim(100 * value) + " %";

  function clock(seconds) {
    if (seconds < 60) return trim(seconds) + " s";
    const total = Math.round(seconds);
    const parts = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
    const two = (one) => String(one).padStart(2, "0");
    return parts[0] ? parts[0] + ":" + two(parts[1]) + ":" + two(parts[2]) : parts[1] + ":" + two(parts[2]);
  }

  // round steps that part the range from 0 to most into about `count`
  function ticks(most, count) {
    const rough = (most || 1) / count;
    const scale = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((one) => one * scale >= rough * 0.999) * scale;
    const found = [];
    for (let i = 0; i * step < (most || 1) + step * 0.999; i++) found.push(i * step);
    return found;
  }

  // -- charts -----------------------------------------------------------------------------

  const WIDE = 520, HIGH = 200, LEFT = 48, RIGHT = 12, TOP = 10, BOTTOM = 26;
  const across = WIDE - LEFT - RIGHT, down = HIGH - TOP - BOTTOM;

  function frame(parent, title, most, upright, format) {
    const figure = add(parent, "figure", null, "chart");
    add(figure, "figcaption", title);
    const legend = add(figure, "div", null, "legend");
    const tip = add(figure, "div", null, "tip");
    const svg = draw(figure, "svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": title });
    const marks = ticks(most, 4);
    const top = marks[marks.length - 1];
    const y = (value) => TOP + down * (1 - value / top);
    for (const mark of marks) {
      draw(svg, "line", { x1: LEFT, x2: WIDE - RIGHT, y1: y(mark), y2: y(mark), class: mark ? "grid" : "base" });
      draw(svg, "text", { x: LEFT - 6, y: y(mark) + 4, "text-anchor": "end" }, format(mark));
    }
    for (const [place, label] of upright) {
      draw(svg, "text", { x: LEFT + across * place, y: HIGH - 8, "text-anchor": "middle" }, label);
    }
    return { figure, legend, tip, svg, y };
  }

  // curves: [{name, values}] over data.series.at, at most two
  function timeChart(title, curves, format) {
    const ends = data.series.at || [];
    const last = ends.length ? ends[ends.length - 1] : 0;
    const most = Math.max(...curves.flatMap((one) => one.values), 0);
    const upright = last ? ticks(last, 5).filter((one) => one <= last * 1.001).map((one) => [one / last, clock(one)]) : [];
    const made = frame(at("charts"), title, most, upright, format);
    made.figure.dataset.points = ends.length;
    const x = (seconds) => LEFT + (last ? (across * seconds) / last : 0);
    curves.forEach((curve, index) => {
      const tone = index ? "two" : "one";
      // each sample is a stretch of time, drawn flat from its beginning to its end
      let path = "", from = 0;
      curve.values.forEach((value, i) => {
        path += `${i ? "L" : "M"}${x(from).toFixed(1)},${made.y(value).toFixed(1)}L${x(ends[i]).toFixed(1)},${made.y(value).toFixed(1)}`;
        from = ends[i];
      });
      if (path) draw(made.svg, "path", { d: path, class: "curve " + tone });
      if (curves.length > 1) {
        const label = add(made.legend, "span");
        add(label, "i", null, tone);
        label.append(curve.name);
      }
    });
    const cross = draw(made.svg, "line", { y1: TOP, y2: HIGH - BOTTOM, x1: -9, x2: -9, class: "cross" });
    made.svg.addEventListener("pointermove", (event) => {
      const box = made.svg.getBoundingClientRect();
      const seconds = ((((event.clientX - box.left) / box.width) * WIDE - LEFT) / across) * last;
      let i = ends.findIndex((end) => end >= seconds);
      if (i < 0) i = ends.length - 1;
      if (i < 0) return;
      const place = x(Math.min(Math.max(seconds, 0), last));
      cross.setAttribute("x1", place);
      cross.setAttribute("x2", place);
      made.tip.textContent = clock(ends[i]) + "  " + curves.map((one) => (curves.length > 1 ? one.name + " " : "") + format(one.values[i])).join(" · ");
    });
    made.svg.addEventListener("pointerleave", () => {
      made.tip.textContent = "";
      cross.setAttribute("x1", -9);
      cross.setAttribute("x2", -9);
    });
  }

  function barChart(title, lengths) {
    const counts = lengths.counts || [];
    const each = counts.length || 1;
    const stride = Math.ceil(each / 6);
    const upright = counts.map((_, i) => [i / each, short(lengths.start + i * lengths.width)]).filter((_, i) => i % stride === 0);
    const made = frame(at("lengths"), title, Math.max(...counts, 0), upright, short);
    made.figure.dataset.points = counts.length;
    if (lengths.rows) add(made.legend, "span", `mean ${trim(lengths.mean)}, half up to ${whole(lengths.p50)}, 99 % up to ${whole(lengths.p99)}, most ${whole(lengths.most)}`);
    counts.forEach((count, i) => {
      const high = made.y(0) - made.y(count);
      const bar = draw(made.svg, "rect", {
        x: LEFT + (across * i) / each + 1, width: Math.max(across / each - 2, 1),
        y: made.y(count), height: high, rx: Math.min(2, high / 2), class: "bar",
      });
      const from = lengths.start + i * lengths.width;
      const range = lengths.width > 1 ? `${whole(from)} to ${whole(from + lengths.width - 1)}` : whole(from);
      bar.addEventListener("pointerenter", () => (made.tip.textContent = `${range} tokens: ${whole(count)} rows`));
      bar.addEventListener("pointerleave", () => (made.tip.textContent = ""));
    });
  }

  function charts() {
    const s = data.series;
    const seconds = s.seconds || [];
    const per = (name) => seconds.map((one, i) => (one ? s[name][i] / one : 0));
    const each = (name) => (s[name] || []).map((one, i) => (s.steps[i] ? one / s.steps[i] : 0));
    if (!seconds.length) {
      add(at("charts"), "p", "The run left no figures over time.", "note");
      return;
    }
    if (s.steps.some((one) => one > 0)) {
      timeChart("Tokens per second", [{ name: "prefill", values: per("prefill_tokens") }, { name: "decode", values: per("decode_tokens") }], short);
      timeChart("Tokens in a step", [{ name: "prefill", values: each("prefill_tokens") }, { name: "decode", values: each("decode_tokens") }], short);
      timeChart("Sequences", [{ name: "running", values: s.running }, { name: "waiting", values: s.waiting }], short);
      timeChart("Cache in use", [{ name: "in use", values: s.cache_use }], percent);
    }
    timeChart("Rows per second", [{ name: "rows", values: per("rows") }], short);
  }

  // -- tables -----------------------------------------------------------------------------

  function table(parent, heads, rows) {
    const made = add(add(parent, "div", null, "scroll"), "table");
    const head = add(add(made, "thead"), "tr");
    for (const [name, kind] of heads) add(head, "th", name, kind);
    const body = add(made, "tbody");
    for (const row of rows) {
      const line = add(body, "tr");
      row.forEach((value, i) => {
        const cell = add(line, "td", value instanceof Node ? null : value, heads[i][1]);
        if (value instanceof Node) cell.append(value);
      });
    }
  }

  function meter(share) {
    const bar = document.createElement("span");
    bar.className = "meter";
    bar.style.width = 100 * share + "%";
    return bar;
  }

  function summary() {
    const { rows, tokens, seconds, accuracy } = data;
    at("when").textContent = `begun ${data.begun ? data.begun.replace("T", " ").replace("Z", " UTC") : "at an unknown time"} · Stoker ${data.stoker}`;
    const rate = (count) => (seconds ? short(count / seconds) : "–");
    const tiles = [
      [rows.total && rows.total !== rows.written ? `${whole(rows.written)} of ${whole(rows.total)}` : whole(rows.written), "rows"],
      [seconds ? clock(seconds) : "–", "time"],
      [rate(tokens.output || tokens.prompt), (tokens.output ? "output" : "prompt") + " tokens per second"],
      [short(tokens.prompt), `prompt tokens, ${short(tokens.cached)} of them from the prefix cache`],
      [short(tokens.output), "output tokens"],
    ];
    if (accuracy && accuracy.compared) tiles.push([percent(accuracy.correct / accuracy.compared), `as expected (${accuracy.mode})`]);
    for (const [value, name] of tiles) {
      const tile = add(at("tiles"), "div", null, "tile");
      add(tile, "b", value);
      add(tile, "span", name);
    }
    const counts = Object.entries(rows.statuses).sort((a, b) => b[1] - a[1]);
    table(at("statuses"), [["status"], ["rows", "number"], ["share", "number"], ["", "share"]],
      counts.map(([name, count]) => [name, whole(count), percent(count / rows.written), meter(count / rows.written)]));
    if (accuracy) {
      at("accuracy").hidden = false;
      table(at("groups"), [[accuracy.group || "group"], ["compared", "number"], ["as expected", "number"], ["", "share"]],
        Object.entries(accuracy.groups).map(([name, one]) =>
          [name, whole(one.compared), percent(one.correct / one.compared), meter(one.correct / one.compared)]));
    }
    table(at("slowest"), [["row", "number"], ["status"], ["running, s", "number"], ["queued, s", "number"], ["tokens", "number"], ["prompt", "clip"]],
      data.slowest.map((one) => [one.row, one.status, trim(one.running_seconds), trim(one.queued_seconds), `${one.prompt_tokens ?? "–"} + ${one.output_tokens ?? 0}`, one.prompt]));
    table(at("settings"), [["setting"], ["value", "wide"]],
      Object.entries(data.settings).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]));
  }

  // -- browsing ---------------------------------------------------------------------------

  const found = { rows: data.sample, shown: 0 };
  const haystacks = data.sample.map((one) => [one.row, one.prompt, one.text, one.error, one.expected].join("\n").toLowerCase());

  function part(parent, one, name, title) {
    if (one[name] === undefined) return;
    add(parent, "h3", title);
    add(parent, "pre", one[name]);
    if (one.cut && one.cut[name]) add(parent, "div", `… ${whole(one.cut[name])} more characters`, "cut");
  }

  function showMore() {
    for (const one of found.rows.slice(found.shown, found.shown + PAGE)) {
      const card = add(at("rows"), "article", null, "card row");
      const head = add(card, "div", null, "head");
      add(head, "b", "row " + one.row);
      add(head, "span", one.status);
      if (one.prompt_tokens !== undefined) add(head, "span", `${whole(one.prompt_tokens)} + ${whole(one.output_tokens || 0)} tokens`);
      if (one.running_seconds !== undefined) add(head, "span", `${trim(one.running_seconds)} s, after ${trim(one.queued_seconds)} s`);
      if (one.agrees !== undefined) add(head, "span", one.agrees ? "✓ as expected" : "✗ not as expected", one.agrees ? "yes" : "no");
      part(card, one, "prompt", "prompt");
      part(card, one, "text", "answer");
      part(card, one, "expected", "expected");
      part(card, one, "error", "error");
    }
    found.shown = Math.min(found.shown + PAGE, found.rows.length);
    at("more").hidden = found.shown >= found.rows.length;
  }

  function find() {
    const wanted = at("search").value.toLowerCase(), status = at("status").value, agrees = at("agrees").value;
    found.rows = data.sample.filter((one, i) =>
      (!status || one.status === status) && (!agrees || one.agrees === (agrees === "yes")) && haystacks[i].includes(wanted));
    found.shown = 0;
    at("rows").replaceChildren();
    at("count").textContent = `${whole(found.rows.length)} of ${whole(data.sample.length)} rows`;
    showMore();
  }

  function browse() {
    const statuses = [...new Set(data.sample.map((one) => one.status))].sort();
    for (const [value, label] of [["", "every status"], ...statuses.map((one) => [one, one])]) {
      add(at("status"), "option", label).value = value;
    }
    at("agrees").hidden = !data.accuracy;
    at("sample-note").textContent = data.sample.length < data.rows.written
      ? `A random sample of ${whole(data.sample.length)} of the ${whole(data.rows.written)} rows, so many of each status at most; "stoker inspect" reads them all.`
      : "All rows of the run.";
    at("find").addEventListener("submit", (event) => event.preventDefault());
    at("search").addEventListener("input", find);
    at("status").addEventListener("change", find);
    at("agrees").addEventListener("change", find);
    at("more").addEventListener("click", showMore);
    find();
  }

  summary();
  charts();
  barChart("Prompt tokens", data.lengths.prompt);
  if (data.lengths.output.rows) barChart("Output tokens", data.lengths.output);
  browse();
  document.documentElement.dataset.ready = "yes";
})();
