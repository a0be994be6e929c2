// A visit with vscode-jsonrpc, as an extension of VS Code makes it; ../visiting.py tells the story.
import { createConnection } from "node:net";
import rpc from "vscode-jsonrpc/node";

const path = `${process.env.XDG_RUNTIME_DIR}/crabd/crabd.sock`;

async function connect() {
  const socket = createConnection(path);
  await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
  const link = rpc.createMessageConnection(
    new rpc.SocketMessageReader(socket), new rpc.SocketMessageWriter(socket));
  return { socket, link };
}

// All events in the order they came, and who waits for more of them.
const events = [];
let news = () => {};

function follow(link) {
  link.onNotification("session/event", (event) => {
    events.push(event);
    news();
  });
  link.listen();
}

async function until(condition) {
  while (!condition()) await new Promise((resolve) => { news = resolve; });
}

async function words(count, from) {
  await until(() => events.slice(from).filter((event) => event.type === "text_delta").length >= count);
}

let { socket, link } = await connect();
follow(link);
const server = await link.sendRequest("initialize", { client: { name: "vscode" }, protocol: 1 });
const { id: session } = await link.sendRequest("session/get_or_create", { agent: "crab", sender: "vscode" });
const { epoch } = await link.sendRequest("session/subscribe", { session });
const { text } = await link.sendRequest("session/send", { session, content: "echo Grüße, 🦀" });

let from = events.length;
const long = link.sendRequest("session/send", { session, content: "slow 600 50" });
await words(1, from);
const cancelled = await link.sendRequest("session/cancel", { session });
const ended = await long;

from = events.length;
const source = new rpc.CancellationTokenSource();
const given_up = link.sendRequest("session/send", { session, content: "slow 600 50" }, source.token)
  .then(() => null, (error) => error.code);
await words(1, from);
source.cancel();
const abandoned = await given_up;
await link.sendRequest("session/cancel", { session });

from = events.length;
await link.sendRequest("session/send", { session, content: "slow 40 20", wait: false });
await words(3, from);
socket.destroy();
link.dispose();
({ socket, link } = await connect());
follow(link);
const after = events.at(-1).seq;
const { replay } = await link.sendRequest("session/subscribe", { session, after, epoch });
await until(() => events.slice(from).some((event) => event.type === "run_ended"));
link.end();

const acp = await connect();
acp.link.onRequest("session/request_permission", (question) => {
  const { optionId } = question.options.find((option) => option.kind === "allow_once");
  return { outcome: { outcome: "selected", optionId } };
});
acp.link.onNotification("session/update", () => {});
acp.link.listen();
await acp.link.sendRequest("initialize", { protocolVersion: 1, clientCapabilities: {} });
const { sessionId } = await acp.link.sendRequest("session/new", { cwd: process.cwd(), mcpServers: [] });
const prompt = [{ type: "text", text: 'call bash {"command": "touch allowed"}' }];
const { stopReason: prompted } = await acp.link.sendRequest("session/prompt", { sessionId, prompt });
acp.link.end();

console.log(JSON.stringify({
  server: server.name, session, text, cancelled: cancelled.stop_reason, ended: ended.stop_reason, abandoned,
  replay, events: events.map((event) => [event.seq, event.type, event.text ?? ""]), prompted,
}));
