/** Words of the embedded model, and what they were computed with. */
export async function story(load) {
  try {
    using model = await load(new URL("./model/", location.href), { backend: "cpu", cache: "none" });
    const { text } = await model.complete("Once upon a time", { maxTokens: 12, temperature: 0 });
    return { text, by: model.adapter.description };
  } catch (error) {
    return { error: String(error) };
  }
}
