// npm install vscode-jsonrpc; node crab.mjs What is a monad?
import { createConnection } from "node:net";
import rpc from "vscode-jsonrpc/node";

const socket = createConnection(`${process.env.XDG_RUNTIME_DIR}/crabd/crabd.sock`);
const link = rpc.createMessageConnection(new rpc.SocketMessageReader(socket), new rpc.SocketMessageWriter(socket));
link.onNotification("session/event", (event) => {
  if (event.type === "text_delta") process.stdout.write(event.text);
});
link.listen();
const { id: session } = await link.sendRequest("session/get_or_create", { agent: "crab", sender: "vscode" });
const content = process.argv.slice(2).join(" ");
const { error } = await link.sendRequest("session/send", { session, content });
console.log(error ? error.message : "");
link.end();
