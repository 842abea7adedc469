import { show } from "../errors.ts";
import type { LoadOptions, ModelSource } from "../types.ts";
import { localSource } from "./local.ts";
import { remoteSource } from "./remote.ts";
import { showUrl } from "./request.ts";
import type { RetryOptions } from "./retry.ts";
import type { CheckpointSource } from "./types.ts";

export interface SourceOptions {
  hub?: LoadOptions["hub"];
  /** @default the global fetch */
  fetch?: typeof fetch;
  /** Ends every transfer of the source whose call brings no signal of its own. */
  signal?: AbortSignal;
  /** For tests; what is left out is as defaultRetry has it. */
  retry?: Partial<RetryOptions>;
}

const defaultEndpoint = "https://huggingface.co";
/** "owner/name" or "owner/name@revision". */
const hubId = /^([\w.-]+)\/([\w.-]+)(?:@(.+))?$/;
/** The page of a model on the hub, which people copy from the address bar. */
const hubPagePath = /^\/([\w.-]+)\/([\w.-]+)(?:\/tree\/([^/]+))?\/?$/;

/** Finds out what kind of source this is; opens and downloads nothing. Throws TypeError for what is none. */
export function openSource(source: ModelSource, options: SourceOptions = {}): CheckpointSource {
  if (typeof source === "string") return openString(source, options);
  if (source instanceof URL) return openUrl(source, options);
  if (typeof source === "object" && source !== null) return localSource(source, options.signal);
  throw new TypeError(`source is ${source === null ? "null" : typeof source}; expected a hub id, a URL, files, or a record of file contents.`);
}

/** An address as it is understood anywhere: a path becomes that of the page. A hub id, and what is neither, stays as it is. */
export function absoluteAddress(source: string): string {
  return hasScheme(source) || isPath(source) ? absoluteUrl(source) : source;
}

/** The same for what can only be an address. What is no URL stays as it is. */
export function absoluteUrl(url: string): string {
  return parseUrl(url)?.href ?? url;
}

function hasScheme(source: string): boolean {
  return /^[a-z][a-z0-9+.-]*:/i.test(source);
}

function isPath(source: string): boolean {
  return !hasScheme(source) && (/^\.{0,2}\//.test(source) || source.endsWith("/") || /\.safetensors(\?|#|$)/.test(source));
}

function openString(source: string, options: SourceOptions): CheckpointSource {
  if (hasScheme(source) || isPath(source)) {
    const url = parseUrl(source);
    if (url) return openUrl(url, options);
    throw new TypeError(`source ${show(source)} is not a URL${isPath(source) ? " (a path needs a page it is relative to)" : ""}; expected an absolute http(s) URL.`);
  }
  const [, owner, name, revision] = hubId.exec(source) ?? [];
  if (owner && name) return openHub(owner, name, revision, options);
  const expected = '"owner/name", "owner/name@revision", or the URL of a folder or of one .safetensors';
  throw new TypeError(`source ${show(source)} is neither a hub id nor a URL; expected ${expected}.`);
}

function openUrl(url: URL, options: SourceOptions): CheckpointSource {
  const isOwn = url.href.startsWith(`${globalThis.origin}/`); // an extension's files, or those of an application with a scheme of its own
  if (!isOwn && url.protocol !== "https:" && url.protocol !== "http:") throw new TypeError(`source ${url.href} has the scheme ${url.protocol}; expected http: or https:, or an address of the page's own origin.`);
  const endpoint = hubEndpoint(options);
  const [, owner, name, revision] = (url.origin === endpoint.origin && hubPagePath.exec(url.pathname)) || [];
  if (owner && name) return openHub(owner, name, revision && decodeURIComponent(revision), options);

  const slash = url.pathname.lastIndexOf("/") + 1;
  const lastSegment = url.pathname.slice(slash);
  const isFile = lastSegment.endsWith(".safetensors");
  const folder = new URL(url); // keeps the query, where some servers expect their access key
  folder.hash = "";
  folder.pathname = isFile ? url.pathname.slice(0, slash) : url.pathname.replace(/\/*$/, "/");
  return remoteSource(
    {
      description: showUrl(folder) + (isFile ? lastSegment : ""),
      fileUrl: (file) => {
        const target = new URL(folder);
        target.pathname += isFile && file === decodeSegment(lastSegment) ? lastSegment : encodeURIComponent(file);
        return target;
      },
      safetensorsNames: isFile ? [decodeSegment(lastSegment)] : [],
      token: url.origin === endpoint.origin ? options.hub?.token : undefined,
    },
    options,
  );
}

function openHub(owner: string, name: string, revision: string | undefined, options: SourceOptions): CheckpointSource {
  const endpoint = hubEndpoint(options);
  const version = revision ?? options.hub?.revision ?? "main";
  const urlOf = (kind: "resolve" | "raw") => (file: string) =>
    new URL(`${endpoint.href.replace(/\/+$/, "")}/${owner}/${name}/${kind}/${encodeURIComponent(version)}/${encodeURIComponent(file)}`);
  const description = `hub ${owner}/${name}@${version}`;
  return remoteSource({ description, fileUrl: urlOf("resolve"), pointerUrl: urlOf("raw"), safetensorsNames: [], token: options.hub?.token }, options);
}

function hubEndpoint(options: SourceOptions): URL {
  const endpoint = options.hub?.endpoint ?? defaultEndpoint;
  const url = parseUrl(endpoint);
  if (url?.protocol === "https:" || url?.protocol === "http:") return url;
  throw new TypeError(`hub.endpoint is ${show(endpoint)}; expected an http(s) URL.`);
}

/** Relative paths are relative to the page, or to the worker's script; in Node they are no URLs. */
function parseUrl(text: string): URL | null {
  const scope = globalThis as { document?: { baseURI: string }; location?: { href: string } };
  const base = scope.document?.baseURI ?? scope.location?.href;
  return URL.canParse(text, base) ? new URL(text, base) : null;
}

function decodeSegment(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment; // a stray % is legal in a URL
  }
}
