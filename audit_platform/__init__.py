"""An audit-log platform for medical devices: kept, sealed, signed, provable to an outsider.

Layers, each importing only what stands left of it: `record` <- `ports` <- `adapters`, `operations`
<- `services`, `defs` <- `cli`. Import the submodule you need; this package exports nothing.
"""
