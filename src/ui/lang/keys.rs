//! The key table's texts: what each action does, and its word among the hints.

words! {
    group_run: "the run", "运行";
    group_move: "moving", "移动";
    group_chart: "charts", "图表";
    group_deck: "the deck", "界面";

    help_pause: "pause or resume; an ended run: start its runner again", "暂停或继续；已结束的运行：重新启动运行进程";
    help_checkpoint: "save a checkpoint now", "立即保存检查点";
    help_export: "export the adapter as it is now", "导出当前的适配器";
    help_sample: "sample the prompts now", "立即对提示词采样";
    help_eval: "evaluate the held-out records now", "立即用留出样本评估";
    help_stop: "stop the run: save, discard or cancel", "停止运行：保存、放弃或取消";
    help_runs: "home: all runs, configs and the queue", "主页：所有运行、配置和队列";
    help_detach: "leave the deck; the run goes on", "离开界面；运行继续";
    help_next_pane: "next pane", "下一个面板";
    help_previous_pane: "previous pane", "上一个面板";
    help_maximise: "maximise the pane, or restore it", "最大化面板，或还原";
    help_back: "close, clear the filter, restore", "关闭、清除筛选、还原";
    help_up: "scroll up, or the pane above", "向上滚动，或上方的面板";
    help_down: "scroll down, or the pane below", "向下滚动，或下方的面板";
    help_left: "earlier sample, previous record, or the pane to the left", "更早的样例、上一条记录，或左侧的面板";
    help_right: "later sample, next record, or the pane to the right", "更晚的样例、下一条记录，或右侧的面板";
    help_page_up: "scroll a page up", "向上翻一页";
    help_page_down: "scroll a page down", "向下翻一页";
    help_first: "to the beginning", "到开头";
    help_last: "to the end", "到末尾";
    help_filter: "filter the config or the log", "筛选配置或日志";
    help_show_loss: "the loss chart", "损失图";
    help_show_rate: "learning rate and gradient norm", "学习率与梯度范数";
    help_show_gpu: "the GPU", "GPU";
    help_show_host: "the host", "主机";
    help_show_config: "the config", "配置";
    help_show_data: "the data", "数据";
    help_show_samples: "the samples", "样例";
    help_show_checkpoints: "checkpoints and exports", "检查点与导出";
    help_show_log: "the log", "日志";
    help_zoom_in: "zoom in on recent steps, or on the crosshair", "放大最近的步，或十字线处";
    help_zoom_out: "zoom out", "缩小";
    help_zoom_whole: "show the whole run", "显示整个运行";
    help_log_scale: "logarithmic or linear scale", "对数或线性刻度";
    help_crosshair_left: "crosshair to the left", "十字线左移";
    help_crosshair_right: "crosshair to the right", "十字线右移";
    help_help: "this help", "本帮助";
    help_palette: "find an action by its name", "按名称查找操作";
    help_theme: "next theme", "下一个主题";
    help_mouse: "mouse on or off (off: the terminal selects text)", "鼠标开或关（关：由终端选择文本）";
    help_redraw: "draw everything anew", "全部重绘";
    help_suspend: "suspend the deck; fg brings it back", "挂起界面；用 fg 恢复";

    no_hint: "", "";
    hint_pause: "pause", "暂停";
    hint_resume: "resume", "继续";
    hint_start_again: "start again", "重新启动";
    hint_checkpoint: "checkpoint", "检查点";
    hint_export: "export", "导出";
    hint_sample: "sample", "采样";
    hint_eval: "eval", "评估";
    hint_stop: "stop", "停止";
    hint_detach: "detach", "离开";
    hint_maximise: "maximise", "最大化";
    hint_restore: "restore", "还原";
    hint_filter: "filter", "筛选";
    hint_help: "help", "帮助";
    hint_palette: "palette", "命令面板";
    hint_theme: "theme", "主题";
    hint_mouse: "mouse", "鼠标";
}
