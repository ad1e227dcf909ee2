// Prints the tables of the browser library as JSON; argument: protocol.js.
const { MAX_TEXT_BYTES, MESSAGES, TRANSITIONS } = await import(process.argv[2]);
console.log(JSON.stringify({ MAX_TEXT_BYTES, MESSAGES, TRANSITIONS }));
