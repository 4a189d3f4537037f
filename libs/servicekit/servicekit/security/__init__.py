"""Who may call: TLS, certificates' names, callers' tokens, roles and quotas, all by one policy file."""
