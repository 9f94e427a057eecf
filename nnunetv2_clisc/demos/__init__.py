"""The methods on made-up data, through the installed commands: a first try."""
