//! Help, palette, dialogs and toasts.

words! {
    help_title: "help", "帮助";
    marks_below: "marks below a chart", "图表下方的标记";
    mark_checkpoint: "checkpoint", "检查点";
    mark_non_finite: "step skipped: loss or gradient not finite", "跳过的步：损失或梯度不是有限数";
    mark_pause: "pause", "暂停";
    mark_sample: "sample", "样例";
    mark_config_change: "config change", "配置更改";
    mark_resume: "resumed from a checkpoint", "从检查点恢复";

    actions_title: "actions", "操作";
    no_such_action: "no such action", "没有这样的操作";

    stop_title: "stop", "停止";
    every_step_saved: "Every step is saved.", "所有步都已保存。";
    one_step_unsaved: "1 step is not saved yet.", "有 1 步尚未保存。";
    stop_save: "save", "保存";
    stop_save_what: "checkpoint, then end; the run can go on from there", "保存检查点后结束；之后可从此继续";
    stop_save_short: "checkpoint, then end", "保存检查点后结束";
    stop_discard: "discard", "放弃";
    stop_discard_what: "lose unsaved steps; end at once, without a checkpoint", "丢失未保存的步；不保存检查点，立即结束";
    stop_discard_short: "lose unsaved steps", "丢失未保存的步";
    stop_cancel: "cancel", "取消";
    stop_cancel_what: "let it run", "让它继续运行";

    start_title: "start", "启动";
    begins_anew: "It has no checkpoint and begins anew.", "没有检查点，将从头开始。";
    start_it: "start", "启动";
    leave_it: "leave it", "不启动";

    prompt_title: "a prompt to sample", "要采样的提示词";
    prompt_options: "--n negative  --w --h pixels  --d seed  --s steps  --l scale", "--n 负面提示词  --w --h 像素  --d 种子  --s 步数  --l 引导";
    acts_at_once: "a change acts at once", "更改立即生效";
    set_it: "set", "设定";
    keep_it: "keep", "保留";
    show_it: "show or hide", "显示或隐藏";
    close_it: "close", "关闭";
    compare_title: "other runs", "其他运行";
    looking_for_runs: "looking", "正在查找";
    no_other_runs: "no other run lies beside this one", "旁边没有其他运行";
    edit_asked_title: "what the edit changes", "此次编辑的更改";
    edit_broken_title: "the edit has mistakes", "编辑有错误";
    edit_seen_title: "the config file has changed", "配置文件已更改";
    restart_keys_wait: "What needs a restart does not act on this run: it takes a new one (train with --resume never, or another output_dir).", "需要重新启动的更改对本运行无效：须新建运行（train 加 --resume never，或改用其他 output_dir）。";
    write_it: "write the file", "写入文件";
    edit_again: "edit again", "再次编辑";
    throw_away: "throw the edit away", "放弃编辑";
    file_stays: "the config file stays as it was", "配置文件保持原样";
    nothing_edited: "nothing was changed", "没有更改";
    nothing_to_copy: "there is nothing to copy here", "此处没有可复制的内容";
    no_alert: "no alert", "没有警报";
    bell_on: "bell on: alerts ring", "响铃已开：警报时响";
    bell_off: "bell off", "响铃已关";

    filter_hint: "Enter keeps it, Esc takes it back", "回车保留，Esc 撤回";

    mouse_on: "mouse on: the wheel scrolls, a click focuses", "鼠标已开：滚轮滚动，点击聚焦";
    mouse_off: "mouse off: the terminal selects text", "鼠标已关：由终端选择文本";
    runner_starts: "a runner starts", "运行进程正在启动";
    not_connected: "not connected yet", "尚未连接";
    runner_silent: "the runner does not answer; reconnecting", "运行进程没有应答；正在重连";
    line_is_down: "the line is down; reconnecting", "线路已断；正在重连";
    run_not_begun_yet: "no run has begun: loradeck train starts one", "运行尚未开始：用 loradeck train 启动";
    run_finished: "the run has finished; its runner is gone", "运行已完成；运行进程已退出";
    no_runner_alive: "no runner is alive; p starts it again", "没有运行进程；按 p 重新启动";
    run_finished_more: "the run has finished: raise epochs or max_steps in its config and train again", "运行已完成：在配置中调大 epochs 或 max_steps 后再次训练";
    opened_readonly: "opened with --readonly", "以 --readonly 打开";
    change_now: "now", "立即生效";
    change_checkpoint: "from the next checkpoint", "从下一个检查点起生效";
    change_restart: "needs a restart", "需要重新启动";
}

sentences! {
    help_more(n): "help, j k to scroll, {n} more below", "帮助，j k 滚动，下方还有 {n} 行";
    stop_question(run, step): "Stop {run} at step {step}?", "在第 {step} 步停止 {run}？";
    steps_unsaved(n): "{n} steps are not saved yet.", "有 {n} 步尚未保存。";
    goes_on_from(checkpoint): "It goes on from {checkpoint}.", "将从 {checkpoint} 继续。";
    run_has_ended(run, phase): "{run} has {phase}.", "{run} {phase}。";
    no_runner_of(run): "No runner of {run} is alive.", "{run} 没有运行进程。";
    start_question(what, from): "{what} Start its runner again? {from}", "{what}重新启动运行进程吗？{from}";

    value_now(value, source): "{value} at present ({source})", "当前 {value}（{source}）";
    needs_new_run(key, open): "{key} needs a new run; {open} opens the config file", "{key} 需要新的运行；按 {open} 打开配置文件";
    nothing_compared(key): "{key} shows other runs to align", "按 {key} 显示其他运行后再对齐";
    too_many_runs(n): "{n} other runs are shown already", "已显示 {n} 个其他运行";
    copied(bytes): "copied {bytes} bytes", "已复制 {bytes} 字节";
    not_copied(why): "not copied: {why}", "未复制：{why}";
    no_editor(why): "the editor could not be used: {why}", "无法使用编辑器：{why}";

    theme_is(name): "theme: {name}", "主题：{name}";
    readonly_because(why): "this deck is read-only: {why}", "本界面只读：{why}";
    no_runner_started(why): "no runner could be started: {why}", "无法启动运行进程：{why}";
    no_answer(command): "{command}: no answer from the runner", "{command}：运行进程没有应答";
    runner_is_gone(command): "{command}: the runner is gone", "{command}：运行进程已消失";
    line_was_lost(command): "{command}: the line is down", "{command}：线路已断";
    old_values_stay(source, error): "{source}: {error} (the old values stay)", "{source}：{error}（保留旧值）";
    key_changed(source, key, value, when): "{source}: {key} = {value}, {when}", "{source}：{key} = {value}，{when}";
    keys_changed(source, key, value, more, when): "{source}: {key} = {value} and {more} more, {when}", "{source}：{key} = {value} 等另外 {more} 项，{when}";
}
