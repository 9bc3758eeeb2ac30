-- The state machines as data (EXECUTION.md, Transitions). The guards look edges up
-- here; Go mirrors the rows.
SET LOCAL ROLE nofx_owner;

CREATE TABLE nofx.machine_state (
    machine  text NOT NULL,
    state    text NOT NULL,
    terminal boolean NOT NULL,
    PRIMARY KEY (machine, state)
);

CREATE TABLE nofx.transition (
    machine      text NOT NULL,
    from_state   text NOT NULL,
    event        text NOT NULL,
    to_state     text NOT NULL,
    needs_lease  boolean NOT NULL DEFAULT false,
    needs_reason boolean NOT NULL DEFAULT false,
    batched      boolean NOT NULL DEFAULT false, -- the functions that move many rows may write its event themselves
    final        boolean NOT NULL, -- to_state is terminal
    PRIMARY KEY (machine, from_state, event),
    FOREIGN KEY (machine, from_state) REFERENCES nofx.machine_state (machine, state),
    FOREIGN KEY (machine, to_state) REFERENCES nofx.machine_state (machine, state)
);
GRANT SELECT ON nofx.machine_state, nofx.transition TO nofx_app;

INSERT INTO nofx.machine_state (machine, state, terminal) VALUES
    ('run', 'queued', false), ('run', 'running', false), ('run', 'waiting', false), ('run', 'paused', false),
    ('run', 'succeeded', true), ('run', 'failed', true), ('run', 'cancelled', true),
    ('step', 'pending', false), ('step', 'ready', false), ('step', 'running', false), ('step', 'waiting', false), ('step', 'retrying', false),
    ('step', 'succeeded', true), ('step', 'failed', true), ('step', 'skipped', true), ('step', 'cancelled', true),
    ('gate', 'pending', false), ('gate', 'passed', true), ('gate', 'failed', true), ('gate', 'waived', true), ('gate', 'expired', true), ('gate', 'error', true),
    ('merge', 'open', false), ('merge', 'conflicted', false), ('merge', 'ready', false), ('merge', 'committed', true), ('merge', 'abandoned', true);

INSERT INTO nofx.transition (machine, from_state, event, to_state, needs_lease, needs_reason, batched, final)
SELECT e.machine, f.state, e.event, e.to_state, e.l, e.r, e.b, m.terminal
FROM (VALUES
    ('run', 'queued',                          'start',           'running',   false, false, true),
    ('run', 'queued running waiting',          'pause',           'paused',    false, false, false),
    ('run', 'queued running waiting paused',   'cancel',          'cancelled', false, true,  false),
    ('run', 'queued running waiting paused',   'fail',            'failed',    false, true,  false),
    ('run', 'running',                         'wait',            'waiting',   false, false, false),
    ('run', 'waiting',                         'wake',            'running',   false, false, false),
    ('run', 'running waiting paused',          'succeed',         'succeeded', false, false, true),
    ('run', 'paused',                          'resume',          'running',   false, false, false),
    ('run', 'paused',                          'resume_waiting',  'waiting',   false, false, false),
    ('run', 'paused',                          'resume_queued',   'queued',    false, false, false),
    ('run', 'failed cancelled',                'retry',           'running',   false, true,  false),
    ('run', 'failed cancelled',                'resume',          'running',   false, true,  false),

    ('step', 'pending',                        'deps_met',        'ready',     false, false, true),
    ('step', 'pending',                        'skip',            'skipped',   false, true,  true),
    ('step', 'running',                        'cancel',          'cancelled', false, true,  false),
    ('step', 'pending ready waiting retrying', 'cancel',          'cancelled', false, true,  true),
    ('step', 'ready',                          'claim',           'running',   false, false, true),
    ('step', 'running',                        'succeed',         'succeeded', true,  false, true),
    ('step', 'running',                        'fail',            'failed',    true,  true,  false),
    ('step', 'running',                        'wait',            'waiting',   true,  true,  false),
    ('step', 'running',                        'retry',           'retrying',  true,  true,  false),
    ('step', 'running',                        'interrupted',     'ready',     true,  true,  false),
    ('step', 'running',                        'lease_expired',   'ready',     false, true,  false),
    ('step', 'running',                        'poison',          'failed',    false, true,  false),
    ('step', 'waiting',                        'signal',          'ready',     false, false, false),
    ('step', 'waiting',                        'approve',         'succeeded', false, false, false),
    ('step', 'waiting',                        'waive',           'succeeded', false, false, false),
    ('step', 'waiting',                        'elapsed',         'succeeded', false, false, false),
    ('step', 'waiting',                        'expire',          'failed',    false, true,  false),
    ('step', 'waiting',                        'reject',          'failed',    false, true,  false),
    ('step', 'retrying',                       'backoff_elapsed', 'ready',     false, false, false),
    ('step', 'failed',                         'retry',           'ready',     false, true,  true),
    ('step', 'skipped cancelled',              'reopen',          'pending',   false, true,  true),

    ('gate', 'pending',                        'pass',            'passed',    true,  false, false),
    ('gate', 'pending',                        'fail',            'failed',    true,  false, false),
    ('gate', 'pending',                        'error',           'error',     true,  false, false),
    ('gate', 'pending',                        'approve',         'passed',    false, false, false),
    ('gate', 'pending',                        'reject',          'failed',    false, true,  false),
    ('gate', 'pending failed error expired',   'waive',           'waived',    false, true,  false),
    ('gate', 'pending',                        'expire',          'expired',   false, true,  false),
    ('gate', 'pending',                        'withdraw',        'expired',   false, true,  false),

    ('merge', 'open',                          'compute_clean',     'ready',      false, false, false),
    ('merge', 'open',                          'compute_conflicts', 'conflicted', false, false, false),
    ('merge', 'conflicted',                    'resolve_all',       'ready',      false, false, false),
    ('merge', 'ready',                         'unresolve',         'conflicted', false, false, false),
    ('merge', 'conflicted ready',              'target_moved',      'open',       false, false, false),
    ('merge', 'ready',                         'commit',            'committed',  false, false, false),
    ('merge', 'open conflicted ready',         'abandon',           'abandoned',  false, true,  false)
) AS e (machine, from_states, event, to_state, l, r, b)
CROSS JOIN LATERAL unnest(string_to_array(e.from_states, ' ')) AS f (state)
JOIN nofx.machine_state m ON m.machine = e.machine AND m.state = e.to_state;

RESET ROLE;
