export interface Tokenizer {
  readonly vocabSize: number;
  /** Ends a generation; null where the vocabulary has no such token. */
  readonly endOfTextId: number | null;
  encode(text: string, options?: { specialTokens?: "parse" | "text" }): number[];
  /** UTF-8 of all tokens together; bytes that form no character become U+FFFD. */
  decode(tokens: readonly number[]): string;
  /** A decoder that holds bytes back until a character is whole. The texts it gives, joined, equal decode() of all tokens. */
  stream(): TokenStream;
}

export interface TokenStream {
  /** Whole characters that this token completed; often "". */
  push(token: number): string;
  /** What is left at the end: "" or replacement characters for an unfinished character. */
  flush(): string;
}
