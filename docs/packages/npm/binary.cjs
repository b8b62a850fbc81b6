"use strict";
// The binary of this machine's platform package, or undefined where there is none.

module.exports = function binary() {
  try {
    return require.resolve(`@procwire/${process.platform}-${process.arch}/bin/procwire`);
  } catch {
    return undefined;
  }
};
