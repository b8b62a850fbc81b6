/** The client of docs/clients, which starts the binary of this package where nothing else is named. */
import { Server } from "./procwire.js";
import binary from "../binary.cjs";

const path = binary();
if (path !== undefined) Server.defaultCommand = [path];

export * from "./procwire.js";
