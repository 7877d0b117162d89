package config

// ReferenceVersion is the version of swtpm whose interface this program has. It
// is what classic options print as our version, because callers decide by it
// what they may ask for; what is not there yet is missing from
// --print-capabilities. Our own version is daemon.Version.
const ReferenceVersion = "0.11.0"
