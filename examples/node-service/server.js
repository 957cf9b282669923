const http = require("http");
const ms = require("ms");

const started = Date.now();
const port = Number(process.env.PORT);
const server = http.createServer((request, response) => {
  response.end(`up for ${ms(Date.now() - started, { long: true })} in ${process.cwd()}\n`);
});
server.listen(port, () => console.log(`listening on port ${port}`));
process.on("SIGTERM", () => process.exit(0));
