// A visit with the protocol's own TypeScript SDK; ../visiting.py tells the story.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { Readable, Writable } from "node:stream";
import * as acp from "@agentclientprotocol/sdk";

const [command, ...args] = JSON.parse(process.env.AGENT);
const told = { updates: [], stops: [], modes: [], options: [], listed: [] };
// How the next question is answered: the kind of an option, or "cancelled".
let decision = "allow_once";
// Called with each update.
let watch = () => {};

async function connect() {
  const agent = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
  const ended = once(agent, "exit");
  const seen = [];
  told.updates.push(seen);
  const app = acp.client({ name: "visitor" })
    .onRequest("session/request_permission", async ({ params }) => {
      if (decision === "cancelled") {
        await link.agent.notify("session/cancel", { sessionId: params.sessionId });
        return { outcome: { outcome: "cancelled" } };
      }
      const { optionId } = params.options.find((option) => option.kind === decision);
      return { outcome: { outcome: "selected", optionId } };
    })
    .onNotification("session/update", ({ params: { update } }) => {
      seen.push([update.sessionUpdate, update.content?.text ?? ""]);
      watch(update);
    });
  const link = app.connect(acp.ndJsonStream(Writable.toWeb(agent.stdin), Readable.toWeb(agent.stdout)));
  const ask = (method, params = {}) => link.agent.request(method, params);
  const opened = await ask("initialize", {
    protocolVersion: acp.PROTOCOL_VERSION, clientCapabilities: {}, clientInfo: { name: "typescript", version: "1" },
  });
  return { agent, ended, link, ask, opened };
}

async function prompt({ ask }, text) {
  const { stopReason } = await ask("session/prompt", { sessionId, prompt: [{ type: "text", text }] });
  told.stops.push(stopReason);
}

// Wait until so many chunks of a reply have come; from now on, or of all those seen on the last link.
function chunks(count) {
  return new Promise((resolve) => {
    watch = (update) => {
      if (update.sessionUpdate === "agent_message_chunk" && --count <= 0) resolve();
    };
  });
}

async function until(condition) {
  while (!condition()) await new Promise((resolve) => { watch = resolve; });
}

async function kill({ agent, ended }) {
  agent.kill("SIGKILL");
  await ended;
}

const cwd = process.cwd();
let link = await connect();
told.protocol = link.opened.protocolVersion;
told.agent = link.opened.agentInfo.name;
const made = await link.ask("session/new", { cwd, mcpServers: [] });
const { sessionId } = made;
told.session = sessionId;

await prompt(link, "echo Grüße, 🦀");
await prompt(link, 'call bash {"command": "touch allowed"}');
decision = "reject_once";
await prompt(link, 'call bash {"command": "touch rejected"}');
decision = "cancelled";
await prompt(link, 'call bash {"command": "touch never"}');
const first = chunks(1);
const cancelled = prompt(link, "slow 600 50");
await first;
await link.link.agent.notify("session/cancel", { sessionId });
await cancelled;

const modes = made.modes.availableModes.map((mode) => mode.id);
told.modes = modes;
for (const modeId of [modes.at(-1), made.modes.currentModeId]) {
  await link.ask("session/set_mode", { sessionId, modeId });
}
for (const option of made.configOptions) {
  const choices = option.options.flatMap((choice) => choice.options ?? [choice]);
  const value = choices.at(-1).value;
  for (const each of [value, option.currentValue]) {
    const { configOptions } = await link.ask("session/set_config_option",
      { sessionId, configId: option.id, value: each });
    const now = configOptions.find((other) => other.id === option.id).currentValue;
    told.options.push([option.id, each, now]);
  }
}

const third = chunks(3);
prompt(link, "slow 40 50").catch(() => {});
await third;
await kill(link);

link = await connect();
await link.ask("session/load", { sessionId, cwd, mcpServers: [] });
const here = () => told.updates.at(-1).map(([, text]) => text).join("");
await until(() => / 40$/.test(here()));
await prompt(link, "echo again");
await kill(link);

link = await connect();
await link.ask("session/resume", { sessionId, cwd, mcpServers: [] });
await prompt(link, "echo resumed");

async function list() {
  const { sessions } = await link.ask("session/list", { cwd });
  told.listed.push(sessions.some((session) => session.sessionId === sessionId));
}
await list();
await link.ask("session/close", { sessionId });
await list();
await link.ask("session/load", { sessionId, cwd, mcpServers: [] });
await link.ask("session/delete", { sessionId });
await list();
told.gone = await link.ask("session/load", { sessionId, cwd, mcpServers: [] })
  .then(() => 0, (error) => error.code);

link.agent.stdin.end();
[told.exit] = await link.ended;
console.log(JSON.stringify(told));
