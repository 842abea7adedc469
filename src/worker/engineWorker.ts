import { serve, type ServerPort } from "./server.ts";

serve(globalThis as unknown as ServerPort);
