import { describe, expect, test } from "vitest";
import { openSource } from "../../src/source/openSource.ts";
import { pinnedSource, type PinnedSource } from "../../src/source/pinned.ts";
import { TinyServer } from "../fixtures/tinyServer.ts";

const files = { "config.json": Uint8Array.of(1), "model.safetensors": new Uint8Array(100) };
const others = { ...files, "config.json": Uint8Array.of(2) };

function pinned(server: TinyServer): PinnedSource {
  return pinnedSource(openSource("https://models.example/tiny/", { fetch: server.fetch }));
}

describe("pinnedSource", () => {
  test("opens a file again while it is the same, refuses another version, and leaves other files alone", async () => {
    const server = new TinyServer(files);
    const source = pinned(server);
    await source.open("config.json");
    expect(await source.open("config.json")).not.toBeNull(); // control case
    server.files = others;
    const message = expect.stringMatching(/^config\.json of https:\/\/models\.example\/tiny\/ is not what was loaded before: it was ".*", now it is ".*"\.$/) as string;
    await expect(source.open("config.json")).rejects.toMatchObject({ code: "network", message });
    expect(await source.open("model.safetensors")).not.toBeNull();
    expect(await source.open("vocab.json")).toBeNull();
  });

  test("holds files to the versions that they were pinned to", async () => {
    const [first, second] = [pinned(new TinyServer(files)), pinned(new TinyServer(others))];
    await first.open("config.json");
    second.pin(await first.versions());
    await expect(second.open("config.json")).rejects.toMatchObject({ code: "network" });
    second.pin({ "config.json": ["sha256-unknown", ...(await pinned(new TinyServer(others)).currentVersions!("config.json"))!] });
    expect(await second.open("config.json")).not.toBeNull(); // one word is enough
  });

  test("knows nothing of files without versions", async () => {
    const server = new TinyServer(files);
    server.headers = () => ({});
    const source = pinned(server);
    await source.open("config.json");
    server.files = others;
    expect(await source.open("config.json")).not.toBeNull();
    expect(await source.versions()).toEqual({ "config.json": [] });
  });
});
