"""Stand-ins for what lies outside the process. They import nothing of imgpull, so that they can't share its errors."""
