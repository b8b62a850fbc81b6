declare function binary(): string | undefined;
export = binary;
