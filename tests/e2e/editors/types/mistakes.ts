// What the types are there to find: every line that is marked is wrong, and no other.
import type { SessionEvent } from "./crabd";
import { request } from "./plugin";

const session = "crab_user_1";

request("session/explode", {}); // wrong
request("session/get", { session, sesion: session }); // wrong
request("session/send", { content: "hi" }); // wrong
request("session/send", { session, content: "hi", when_busy: "wait" }); // wrong
request("daemon/ping", { loud: true }); // wrong

export async function mistake(event: SessionEvent): Promise<unknown> {
  const sent = await request("session/send", { session, content: "hi", wait: false });
  if (event.type === "text_end") return event.text; // wrong
  if (event.type === "text_ended") return event.seq; // wrong
  return sent.stop_reason; // wrong
}
