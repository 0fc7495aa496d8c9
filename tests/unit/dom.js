// As much of a browser as timeline.html needs: runs the script of the page in argv[2], and prints what it made as XML.
"use strict";
const page = require("fs").readFileSync(process.argv[2], "utf8");
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;");

class Element {
	constructor(name) {
		Object.assign(this, {name, attributes: {}, children: [], textContent: ""});
	}

	setAttribute(key, value) {
		this.attributes[key] = value;
	}

	appendChild(child) {
		this.children.push(child);
		return child;
	}

	append(text) {
		this.children.push(text);
	}

	toString() {
		const attributes = Object.entries(this.attributes).map(([key, value]) => ` ${key}="${escaped(value)}"`).join("");
		const inside = this.children.map(child => child instanceof Element ? child : escaped(child)).join("");
		return `<${this.name}${attributes}>${escaped(this.textContent)}${inside}</${this.name}>`;
	}
}

const known = {h1: new Element("h1")};
for (const [, name, id] of page.matchAll(/<(\w+)[^>]* id="(\w+)">/g))
	known[id] = new Element(name);
known.job.textContent = page.match(/ id="job">([^]*?)<\/script>/)[1];
global.document = {
	getElementById: id => known[id],
	querySelector: name => known[name],
	createElementNS: (space, name) => new Element(name),
	createElement: name => new Element(name),
};
new Function(page.match(/<script>([^]*?)<\/script>/)[1])();
console.log(`<page>${known.h1}${known.sums}${known.picture}${known.legend}</page>`);
