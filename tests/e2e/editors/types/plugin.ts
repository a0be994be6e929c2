// A plugin as somebody would write it: it compiles.
import type { Methods, Notifications, SessionEvent } from "./crabd";

export declare function request<M extends keyof Methods>(
  method: M,
  params: Methods[M]["params"],
): Promise<Methods[M]["result"]>;

type Listener = (event: Notifications["session/event"]) => void;

export function draw(event: SessionEvent): string {
  switch (event.type) {
    case "text_delta":
      return event.text;
    case "confirmation_requested":
      return event.confirmation.suggestions.join();
    case "lagged":
      return `${event.from} ${event.to} ${event.epoch}`;
    default:
      return event.run ?? event.session;
  }
}

export async function talk(listen: (listener: Listener) => void): Promise<string> {
  const session = await request("session/get_or_create", { agent: "crab", cwd: "/tmp" });
  const { snapshot } = await request("session/subscribe", { session: session.id });
  listen((event) => draw(event));
  const content = [{ type: "text" as const, text: "hi" }];
  const sent = await request("session/send", { session: session.id, content });
  const items: string[] = snapshot ? snapshot.plan.map((item) => item.text) : [];
  await request("daemon/ping", {});
  return "stop_reason" in sent ? sent.stop_reason : `${sent.disposition} ${items.length}`;
}
