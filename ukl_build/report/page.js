// SPDX-License-Identifier: Apache-2.0
// A leaf: [names from the outside to the inside, options likewise, bytes in the file, in memory].
const colours = ["#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#cfcf5a", "#dddddd", "#c9b3e0"];
const state = { measure: "file", by: "owner", at: [] };
const HEAD = 17, LEAST = 4;

function tree() {
	const root = { name: "all", size: 0, inside: new Map() };
	for (const [path, options, file, memory] of leaves) {
		const size = state.measure === "file" ? file : memory;
		if (!size) continue;
		let way = path;
		if (state.by === "option") way = [...(options.length ? options : ["in every kernel, or no part of Linux"]), path.join(" / ")];
		let node = root;
		node.size += size;
		for (const name of way) {
			if (!node.inside.has(name)) node.inside.set(name, { name, size: 0, inside: new Map(), options });
			node = node.inside.get(name);
			node.size += size;
		}
	}
	return root;
}

const inner = (node) => [...node.inside.values()].sort((a, b) => b.size - a.size);

// Rows as near to squares as can be: Bruls, Huizing, van Wijk, "Squarified Treemaps", 2000.
function squarify(nodes, x, y, w, h, put) {
	let total = nodes.reduce((sum, node) => sum + node.size, 0);
	const rest = [...nodes];
	while (rest.length && w > 0 && h > 0) {
		const side = Math.min(w, h), scale = (w * h) / total;
		let row = [], sum = 0, worst = Infinity;
		while (rest.length) {
			const next = sum + rest[0].size, length = (next * scale) / side;
			const biggest = Math.max(rest[0].size, ...row.map((node) => node.size));
			const ratio = Math.max((length * length) / (rest[0].size * scale), (biggest * scale) / (length * length));
			if (row.length && ratio > worst) break;
			worst = ratio;
			sum = next;
			row.push(rest.shift());
		}
		const thick = (sum * scale) / side;
		let along = 0;
		for (const node of row) {
			const long = (node.size * scale) / thick;
			if (w >= h) put(node, x, y + along, thick, long);
			else put(node, x + along, y, long, thick);
			along += long;
		}
		if (w >= h) { x += thick; w -= thick; } else { y += thick; h -= thick; }
		total -= sum;
	}
}

const bytes = (n) => (n < 10000 ? `${n} B` : n < 10000000 ? `${(n / 1024).toFixed(0)} KiB` : `${(n / 1048576).toFixed(1)} MiB`);

function describe(node, whole) {
	let said = `${node.name}: ${node.size.toLocaleString("en")} bytes ${state.measure === "file" ? "of the file" : "in memory"}, ${((100 * node.size) / whole).toFixed(2)} %`;
	const options = node.options ?? [];
	if (options.length && !node.inside.size) {
		const last = options[options.length - 1];
		said += `. By CONFIG_${options.join(" → CONFIG_")}` + (reasons[last] ? `: ${reasons[last]}` : "");
	}
	if (state.by === "option" && node.inside.size && reasons[node.name]) said += `: ${reasons[node.name]}`;
	return said;
}

function draw() {
	const map = document.getElementById("map");
	const root = tree();
	let node = root;
	for (const name of state.at) node = node.inside.get(name) ?? node;
	map.replaceChildren();
	const put = (parent, colour, depth, way) => (one, x, y, w, h) => {
		if (w < LEAST || h < LEAST) return;
		const opens = one.inside.size > 1 || (one.inside.size === 1 && inner(one)[0].inside.size > 0);
		const tile = document.createElement("div");
		tile.className = opens ? "tile open" : "tile";
		Object.assign(tile.style, { left: `${x}px`, top: `${y}px`, width: `${w}px`, height: `${h}px` });
		tile.style.background = colour;
		tile.title = describe(one, root.size);
		if (w > 34 && h > 17) tile.textContent = depth === 0 ? `${one.name} ${bytes(one.size)}` : one.name;
		const say = () => { document.getElementById("said").textContent = tile.title; };
		tile.addEventListener("mouseenter", say);
		tile.addEventListener("focus", say);
		const path = [...way, one.name];
		if (opens) {
			const open = () => { state.at = path; draw(); };
			tile.tabIndex = 0;
			tile.setAttribute("role", "button");
			tile.addEventListener("click", open);
			tile.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") open(); });
		}
		parent.append(tile);
		// What is inside is laid above it, on the same level of the page, below its name.
		if (opens && depth === 0 && w > 60 && h > 40) squarify(inner(one), x + 3, y + HEAD, w - 6, h - HEAD - 3, put(parent, colour, 1, path));
	};
	const width = map.clientWidth, height = map.clientHeight, all = inner(node);
	const order = new Map(inner(state.at.length ? node : root).map((one, i) => [one.name, colours[i % colours.length]]));
	squarify(all, 0, 0, width, height, (one, ...box) => put(map, order.get(one.name), 0, state.at)(one, ...box));
	const crumbs = document.getElementById("crumbs");
	crumbs.replaceChildren();
	["all", ...state.at].forEach((name, depth) => {
		const button = document.createElement("button");
		button.textContent = depth ? `› ${name}` : name;
		button.disabled = depth === state.at.length;
		button.addEventListener("click", () => { state.at = state.at.slice(0, depth); draw(); });
		crumbs.append(button);
	});
}

function press(attribute) {
	for (const button of document.querySelectorAll(`[data-${attribute}]`))
		button.addEventListener("click", () => {
			if (attribute === "by" && state.by !== button.dataset.by) state.at = [];
			state[attribute] = button.dataset[attribute];
			for (const other of document.querySelectorAll(`[data-${attribute}]`))
				other.setAttribute("aria-pressed", String(other === button));
			draw();
		});
}

if (document.getElementById("map")) {
	press("measure");
	press("by");
	new ResizeObserver(draw).observe(document.getElementById("map"));
}

const find = document.getElementById("find");
if (find) {
	const rows = [...document.querySelectorAll("#option-rows tbody tr")];
	const filter = () => {
		const words = find.value.toLowerCase().split(/\s+/);
		let shown = 0;
		for (const row of rows) {
			const text = row.textContent.toLowerCase();
			row.hidden = !words.every((word) => text.includes(word));
			shown += row.hidden ? 0 : 1;
		}
		document.getElementById("found").textContent = `${shown} of ${rows.length}`;
	};
	find.addEventListener("input", filter);
	filter();
}
