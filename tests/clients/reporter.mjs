// Prints the results of node's test runner as one line a test, after the name in CLIENT.

export default async function* report(source) {
  for await (const { type, data } of source) {
    if (type === "test:pass" && data.details.type !== "suite") {
      yield `ok      ${process.env.CLIENT}: ${data.name}\n`;
    } else if (type === "test:fail" && data.details.type !== "suite") {
      const { cause, message } = data.details.error;
      yield `FAILED  ${process.env.CLIENT}: ${data.name}\n    ${String(cause?.stack ?? cause ?? message).replaceAll("\n", "\n    ")}\n`;
    } else if (type === "test:stderr" || type === "test:stdout") {
      yield data.message;
    }
  }
}
