/** Lets the user save `content` as a file. */
export function saveFile(name: string, content: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href)); // after the browser has taken it
}

/** What a chart takes from the style sheets around it, which a file does not have. */
const presentation = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight", "text-anchor", "paint-order", "visibility"];

const NOTE_HEIGHT = 24;

/** A drawing that looks the same outside of the page, with a line of text below it. The element must be shown. */
export function standaloneSvg(drawing: SVGSVGElement, background: string, title: string, note: string): { svg: string; width: number; height: number } {
  const copy = drawing.cloneNode(true) as SVGSVGElement;
  const copies = [copy, ...copy.querySelectorAll("*")];
  for (const [i, original] of [drawing, ...drawing.querySelectorAll("*")].entries()) {
    const computed = getComputedStyle(original);
    for (const name of presentation) copies[i]!.setAttribute(name, computed.getPropertyValue(name));
  }
  const heading = document.createElementNS(copy.namespaceURI, "title");
  heading.textContent = title;
  const { width, height: drawnHeight } = drawing.viewBox.baseVal;
  const height = drawnHeight + NOTE_HEIGHT;
  const footer = element("text", { x: 4, y: height - 8, "font-family": "system-ui, sans-serif", "font-size": "11", "text-anchor": "start", fill: getComputedStyle(drawing).color });
  footer.textContent = note;
  copy.prepend(heading, element("rect", { width, height, fill: background }));
  copy.append(footer);
  for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) copy.setAttribute(name, String(value));
  return { svg: new XMLSerializer().serializeToString(copy), width, height };
}

function element(name: string, attributes: Readonly<Record<string, string | number>>): SVGElement {
  const created = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) created.setAttribute(attribute, String(value));
  return created;
}

/** Draws an SVG at twice its size, sharp enough for a slide. */
export async function toPng({ svg, width, height }: { svg: string; width: number; height: number }): Promise<Blob> {
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(svg)}`; // not a blob: a strict img-src lets data: through
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * width, 2 * height];
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("This browser could not draw the picture."))), "image/png"));
}
