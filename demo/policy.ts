import type { ModelSource } from "nibble-webgpu";

/**
 * Rejects where the page's Content-Security-Policy forbids the server of `source`. The page asks, because a policy in its HTML does not bind the engine's
 * worker, and would only look like a lost connection to an engine that it does bind.
 */
export async function checkPolicy(source: ModelSource): Promise<void> {
  if (!(source instanceof URL) || source.origin === location.origin) return;
  const { origin } = source;
  let isRefused = false;
  const note = ({ blockedURI }: SecurityPolicyViolationEvent): void => void (isRefused ||= blockedURI.startsWith(origin));
  document.addEventListener("securitypolicyviolation", note);
  await fetch(origin, { method: "HEAD", mode: "no-cors", credentials: "omit" }).catch(() => undefined); // the policy is asked before the network
  await new Promise((resolve) => setTimeout(resolve, 50)); // the report comes in a task of its own
  document.removeEventListener("securitypolicyviolation", note);
  if (isRefused) {
    throw new Error(`This page may not connect to ${origin}: its Content-Security-Policy allows its own server and huggingface.co. Download the files and drop them here, or add ${origin} to connect-src in index.html.`);
  }
}
