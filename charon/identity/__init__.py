"""Floor 2: certificates, keys and authorities. Files and cryptography; no event loop, so that commands use it too."""
