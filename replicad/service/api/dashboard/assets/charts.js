// The charts: how old the latest point was, and what cycles sent. Colours are those of the style sheet.
"use strict";
(() => {
  const charts = new Map(); // element -> {plot, redraw}
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const FONT = '12px system-ui, "Noto Sans KR", sans-serif';

  const lagWords = (seconds) => replicad.duration(seconds);
  const rateWords = (rate) => `${replicad.bytes(rate)}/s`;

  // Steps that people count time in: no axis says 16 min 40 s.
  const LAG_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432800, 864000];
  const RATE_STEPS = [...Array(5).keys()].flatMap((power) => [1, 2, 5, 10, 20, 50, 100, 200, 500].map((n) => n * 1024 ** power));

  function axes(words, steps) {
    const common = { stroke: colour("--muted"), font: FONT, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    return [
      { ...common, space: 64, size: 40, values: (_, times) => times.map((at, n) => replicad.chartTime(at, n > 0 ? times[n - 1] : null, times[times.length - 1] - times[0])) },
      { ...common, size: 64, incrs: steps, values: (_, values) => values.map((value) => (value === 0 ? "0" : words(value))) },
    ];
  }

  function lagData(series, now) {
    const times = [], lags = [];
    for (const [at, lag] of series.lag) { times.push(at); lags.push(lag); }
    if (times.length) { // the last one is of when it was asked for: since then time has passed
      const last = times.length - 1;
      lags[last] += Math.max(0, now - times[last]);
      times[last] = Math.max(times[last], now);
    }
    return [times, lags, times.map(() => series.rpo_s)];
  }

  function marks(plot, series) {
    // Failed cycles, as crosses at the bottom: not told by their colour alone.
    const context = plot.ctx, size = 4 * devicePixelRatio;
    context.save();
    context.setLineDash([]); // that of the objective is still set
    context.strokeStyle = colour("--critical");
    context.lineWidth = 1.6 * devicePixelRatio;
    for (const at of series.failures) {
      const x = plot.valToPos(at, "x", true), y = plot.bbox.top + plot.bbox.height - 2 * size;
      if (x < plot.bbox.left || x > plot.bbox.left + plot.bbox.width) continue;
      context.beginPath();
      context.moveTo(x - size, y - size); context.lineTo(x + size, y + size);
      context.moveTo(x + size, y - size); context.lineTo(x - size, y + size);
      context.stroke();
    }
    context.restore();
  }

  function readout(plot, element, words) {
    const index = plot.cursor.idx, box = element.querySelector(".readout");
    const value = index == null ? null : plot.data[1][index];
    box.textContent = value == null ? "" : `${replicad.localTime(plot.data[0][index] * 1000)}: ${words(value)}`;
  }

  function options(element, series, kind) {
    const isLag = kind === "lag", words = isLag ? lagWords : rateWords;
    const line = colour("--accent");
    const drawn = [{}, { stroke: line, width: 1.2, fill: colour("--accent-wash"), points: { show: false } }];
    if (isLag) drawn.push({ stroke: colour("--warning"), width: 1.4, dash: [6, 4], points: { show: false } });
    else Object.assign(drawn[1], { paths: uPlot.paths.bars({ size: [0.7, 14] }), fill: line, width: 0 });
    return {
      width: Math.max(200, element.clientWidth), height: 200, legend: { show: false }, pxAlign: 1,
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: {
        x: { time: true, range: (plot) => [series.since, Math.max(replicad.serverNow() / 1000, plot.data[0].at(-1) ?? 0)] },
        y: { range: (plot) => [0, Math.max(1, isLag ? series.rpo_s ?? 0 : 0, ...plot.data[1]) * 1.08] },
      },
      axes: axes(words, isLag ? LAG_STEPS : RATE_STEPS), series: drawn,
      hooks: { draw: [(plot) => isLag && marks(plot, series)], setCursor: [(plot) => readout(plot, element, words)] },
    };
  }

  function draw(element) {
    charts.get(element)?.plot.destroy();
    const series = JSON.parse(element.dataset.series), kind = element.dataset.chart;
    element.replaceChildren();
    const box = document.createElement("p");
    box.className = "readout";
    box.setAttribute("aria-hidden", "true"); // the caption says what matters
    element.append(box);
    const data = () => kind === "lag"
      ? lagData(series, replicad.serverNow() / 1000)
      : [series.rate.map((pair) => pair[0]), series.rate.map((pair) => pair[1])];
    const plot = new uPlot(options(element, series, kind), data(), element);
    plot.root.setAttribute("aria-hidden", "true");
    charts.set(element, { plot, again: () => plot.setData(data()) });
    resizing.observe(element);
  }

  const resizing = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = charts.get(target)?.plot;
      if (plot && target.clientWidth > 0 && plot.width !== target.clientWidth) plot.setSize({ width: target.clientWidth, height: plot.height });
    }
  });

  function forget() {
    for (const [element, { plot }] of charts) {
      if (!element.isConnected) { plot.destroy(); resizing.unobserve(element); charts.delete(element); }
    }
  }

  const drawAll = () => { for (const element of [...charts.keys()]) if (element.isConnected) draw(element); };
  dark.addEventListener("change", drawAll);

  window.replicadCharts = {
    show(root) { forget(); for (const element of root.querySelectorAll("[data-chart]")) draw(element); },
    again() { forget(); for (const { again } of charts.values()) again(); },
  };
})();
